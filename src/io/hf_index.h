// model.safetensors.index.json: which shard holds which tensor.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace palu {

struct ShardIndex {
  std::map<std::string, std::string> weight_map;  // tensor name -> file name beside the index
};

// `where` names the file in errors. Throws Error unless weight_map maps names to plain .safetensors
// file names (no folders: an index must not reach outside its directory).
ShardIndex ParseShardIndex(std::string_view json, std::string_view where);

// The text of an index; `total_bytes` counts all tensors.
std::string ShardIndexText(const ShardIndex& index, int64_t total_bytes);

}  // namespace palu
