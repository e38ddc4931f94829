#include "io/hf_index.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json_object.h"

namespace palu {
namespace {

using nlohmann::json;

bool IsPlainShardName(std::string_view name) {
  return name.find_first_of(std::string_view("/\\\0", 3)) == name.npos && !name.starts_with('.') &&
         name.ends_with(".safetensors");
}

}  // namespace

ShardIndex ParseShardIndex(std::string_view text, std::string_view where) {
  const json value = ParseJson(text, where);
  const JsonObject map = JsonObject(value, where).Object("weight_map");
  ShardIndex index;
  for (const auto& [tensor, file] : map.value().items()) {
    if (!file.is_string() || !IsPlainShardName(file.get_ref<const std::string&>())) {
      map.Mismatch(tensor, "a plain .safetensors file name", Describe(file));
    }
    index.weight_map.emplace(tensor, file.get<std::string>());
  }
  if (index.weight_map.empty()) Fail("{}: field weight_map: expected tensors, found none", where);
  return index;
}

std::string ShardIndexText(const ShardIndex& index, int64_t total_bytes) {
  const json value = {{"metadata", {{"total_size", total_bytes}}},
                      {"weight_map", index.weight_map}};
  return value.dump(2) + "\n";
}

}  // namespace palu
