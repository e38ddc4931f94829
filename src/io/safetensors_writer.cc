#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "io/hf_index.h"
#include "io/safetensors.h"
#include "io/safetensors_header.h"

namespace palu {
namespace {

constexpr size_t kHeaderAlignment = 64;

using Metadata = std::map<std::string, std::string>;

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Larger elements first: then every start is aligned although no holes are allowed.
std::vector<const StoredTensor*> InFileOrder(const std::vector<StoredTensor>& tensors) {
  std::vector<const StoredTensor*> order;
  for (const StoredTensor& tensor : tensors) order.push_back(&tensor);
  const auto bits = [](const StoredTensor* t) { return SafetensorsBits(t->dtype).value_or(0); };
  std::stable_sort(order.begin(), order.end(), [&](auto* a, auto* b) { return bits(a) > bits(b); });
  return order;
}

int64_t Bytes(const StoredTensor& tensor, const std::string& where) {
  return SafetensorsBytes(tensor.dtype, tensor.shape, where, tensor.name);
}

int64_t TotalBytes(const std::vector<StoredTensor>& tensors, const std::string& where) {
  int64_t total = 0;
  for (const StoredTensor& tensor : tensors) total += Bytes(tensor, where);
  return total;
}

// The 8-byte length and the padded header; checks names and sizes.
std::string HeaderText(const std::vector<const StoredTensor*>& tensors, const Metadata& metadata,
                       const std::string& where) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const StoredTensor* tensor : tensors) {
    Require(names.insert(tensor->name).second, "{}: tensor {} would be written twice", where,
            tensor->name);
    const int64_t end = offset + Bytes(*tensor, where);
    text += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}",
                        text.size() > 1 ? "," : "", Quoted(tensor->name), tensor->dtype,
                        ToString(tensor->shape), offset, end);
    offset = end;
  }
  text += '}';
  const size_t prefix = sizeof(uint64_t);
  const size_t total = (prefix + text.size() + kHeaderAlignment - 1) & ~(kHeaderAlignment - 1);
  text.resize(total - prefix, ' ');
  Require(text.size() <= kMaxSafetensorsHeader, "{}: header: expected at most {} bytes, needed {}",
          where, kMaxSafetensorsHeader, text.size());
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

void WriteBytes(const StoredTensor& tensor, OutputFile& file, const std::string& where) {
  OwnedTensor made;
  std::span<const std::byte> bytes = tensor.bytes;
  if (tensor.make) {
    made = tensor.make();
    bytes = {made.data(), static_cast<size_t>(made.size_bytes())};
  }
  Require(std::ssize(bytes) == Bytes(tensor, where), "{}: tensor {}: expected {} bytes, found {}",
          where, tensor.name, Bytes(tensor, where), bytes.size());
  file.Write(bytes);
}

std::vector<StoredTensor> StoredAll(const std::vector<NamedTensor>& tensors) {
  std::vector<StoredTensor> stored;
  for (const NamedTensor& tensor : tensors) stored.push_back(Stored(tensor));
  return stored;
}

// Consecutive runs of at most `max_bytes`; a single larger tensor makes a run of its own.
std::vector<std::vector<StoredTensor>> Split(const std::vector<StoredTensor>& tensors,
                                             int64_t max_bytes, const std::string& where) {
  std::vector<std::vector<StoredTensor>> runs;
  int64_t used = max_bytes;
  for (const StoredTensor& tensor : tensors) {
    const int64_t bytes = Bytes(tensor, where);
    if (runs.empty() || used + bytes > max_bytes) {
      runs.emplace_back();
      used = 0;
    }
    runs.back().push_back(tensor);
    used += bytes;
  }
  return runs;
}

}  // namespace

void WriteSafetensors(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                      const Metadata& metadata) {
  const auto order = InFileOrder(tensors);
  const std::string header = HeaderText(order, metadata, path.string());
  RequireFreeBytes(path, static_cast<int64_t>(header.size()) + TotalBytes(tensors, path.string()));
  OutputFile file(path);
  file.Write(header);
  for (const StoredTensor* tensor : order) WriteBytes(*tensor, file, path.string());
  file.Close();
}

void WriteSafetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                      const Metadata& metadata) {
  WriteSafetensors(path, StoredAll(tensors), metadata);
}

void WriteShardedSafetensors(const std::filesystem::path& directory,
                             const std::vector<StoredTensor>& tensors, const Metadata& metadata,
                             int64_t max_shard_bytes) {
  const int64_t total = TotalBytes(tensors, directory.string());
  if (total <= max_shard_bytes) {
    WriteSafetensors(directory / "model.safetensors", tensors, metadata);
    return;
  }
  RequireFreeBytes(directory / "model.safetensors", total);
  const auto shards = Split(tensors, max_shard_bytes, directory.string());
  ShardIndex index;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const StoredTensor& tensor : shards[i]) {
      Require(index.weight_map.emplace(tensor.name, name).second,
              "{}: tensor {} would be written twice", directory.string(), tensor.name);
    }
    WriteSafetensors(directory / name, shards[i], metadata);
  }
  WriteFileAtomically(directory / "model.safetensors.index.json", ShardIndexText(index, total));
}

void WriteShardedSafetensors(const std::filesystem::path& directory,
                             const std::vector<NamedTensor>& tensors, const Metadata& metadata,
                             int64_t max_shard_bytes) {
  WriteShardedSafetensors(directory, StoredAll(tensors), metadata, max_shard_bytes);
}

}  // namespace palu
