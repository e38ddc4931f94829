#include <set>

#include "base/error.h"
#include "base/file.h"
#include "io/hf_index.h"
#include "io/safetensors.h"

namespace palu {
namespace {

constexpr int64_t kMaxIndexBytes = 100'000'000;

}  // namespace

TensorStore TensorStore::OpenFile(const std::filesystem::path& path) {
  TensorStore store;
  store.path_ = path;
  store.Add(SafetensorsFile::Open(path), nullptr);
  return store;
}

TensorStore TensorStore::OpenDirectory(const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  Require(fs::is_directory(directory, ignored), "{}: no such directory", directory.string());
  TensorStore store;
  store.path_ = directory;
  const fs::path single = directory / "model.safetensors";
  if (fs::exists(single, ignored)) {
    store.Add(SafetensorsFile::Open(single), nullptr);
    return store;
  }
  const fs::path index_path = directory / "model.safetensors.index.json";
  Require(fs::exists(index_path, ignored),
          "{}: expected model.safetensors or model.safetensors.index.json, found neither",
          directory.string());
  const ShardIndex index =
      ParseShardIndex(ReadTextFile(index_path, kMaxIndexBytes), index_path.string());
  std::map<std::string, std::vector<std::string>> tensors_of;  // by shard
  for (const auto& [tensor, shard] : index.weight_map) tensors_of[shard].push_back(tensor);
  for (const auto& [shard, tensors] : tensors_of) {
    Require(fs::exists(directory / shard, ignored),
            "{}: shard {} is missing, {} of its tensors too", index_path.string(), shard,
            tensors.size());
    store.Add(SafetensorsFile::Open(directory / shard), &tensors);
  }
  return store;
}

void TensorStore::Add(SafetensorsFile file, const std::vector<std::string>* wanted) {
  const SafetensorsFile& kept = files_.emplace_back(std::move(file));
  const std::set<std::string> names =
      wanted ? std::set<std::string>(wanted->begin(), wanted->end()) : std::set<std::string>();
  size_t found = 0;
  for (const StoredTensor& tensor : kept.stored()) {
    if (wanted && !names.contains(tensor.name)) continue;
    stored_.emplace(tensor.name, tensor);
    const auto view = kept.tensors().find(tensor.name);
    if (view != kept.tensors().end()) tensors_.insert(*view);
    ++found;
  }
  if (!wanted || found == names.size()) return;
  for (const std::string& name : *wanted) {
    Require(stored_.contains(name), "{}: tensor {}: the index expects it here, found nothing",
            kept.path().string(), name);
  }
}

const TensorView* TensorStore::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const TensorView& TensorStore::Get(const std::string& name, const Shape& expected) const {
  const TensorView* view = Find(name);
  if (!view) {
    const auto other = stored_.find(name);
    Require(other == stored_.end(), "{}: tensor {}: expected F32, F16 or BF16, found {}",
            path_.string(), name, other == stored_.end() ? "" : other->second.dtype);
    Fail("{}: tensor {}: expected {}, found no such tensor", path_.string(), name,
         ToString(expected));
  }
  Require(view->shape == expected, "{}: tensor {}: expected {}, found {}", path_.string(), name,
          ToString(expected), ToString(view->shape));
  return *view;
}

}  // namespace palu
