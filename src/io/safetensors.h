// The safetensors container: a JSON header and raw little-endian tensors, memory-mapped.
// Format: 8-byte header length, header, then one buffer that the tensors cover without holes.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mmap_file.h"
#include "tensor/tensor.h"

namespace palu {

// One file. Views stay valid while the object lives.
class SafetensorsFile {
 public:
  // Throws Error naming file and field for anything malformed: truncation, a header over 100 MB,
  // overlaps or holes, unknown dtypes, shapes whose byte size overflows or differs from the range.
  static SafetensorsFile Open(const std::filesystem::path& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  MmapFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Every tensor of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names.
class TensorStore {
 public:
  static TensorStore OpenDirectory(const std::filesystem::path& directory);
  static TensorStore OpenFile(const std::filesystem::path& path);

  // Null when absent.
  const TensorView* Find(const std::string& name) const;
  // Throws Error unless present with this shape: "DIR: tensor NAME: expected [..], found [..]".
  const TensorView& Get(const std::string& name, const Shape& expected) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView> tensors_;
};

struct NamedTensor {
  std::string name;
  TensorView view;
};

// Writes one file, tensors in the given order, each start aligned to its element size (the header
// is padded with spaces to 64 bytes). Throws Error when the disk is full, with the bytes needed.
void WriteSafetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                      const std::map<std::string, std::string>& metadata);

// Writes model.safetensors, or numbered shards with an index once `max_shard_bytes` is exceeded.
void WriteShardedSafetensors(const std::filesystem::path& directory,
                             const std::vector<NamedTensor>& tensors,
                             const std::map<std::string, std::string>& metadata,
                             int64_t max_shard_bytes = int64_t{5} << 30);

}  // namespace palu
