// The safetensors container: a JSON header and raw little-endian tensors, memory-mapped.
// Format: 8-byte header length, header, then one buffer that the tensors cover without holes.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/mmap_file.h"
#include "tensor/tensor.h"

namespace palu {

// A tensor as a file stores it, of any dtype that safetensors defines; the bytes are not owned.
struct StoredTensor {
  std::string name;
  std::string dtype;  // the format's spelling: "BF16", "I64", ...
  Shape shape;
  std::span<const std::byte> bytes;
  // Instead of bytes: makes the tensor when its turn to be written comes, so that a converted model
  // never lies in memory as a whole.
  std::function<OwnedTensor()> make = nullptr;
};

// One file. Views stay valid while the object lives.
class SafetensorsFile {
 public:
  // Throws Error naming file and field for anything malformed: truncation, a header over 100 MB,
  // overlaps or holes, unknown dtypes, shapes whose byte size overflows or differs from the range.
  static SafetensorsFile Open(const std::filesystem::path& path);

  // Those of a DType. A tensor that lies unaligned in the file (the format only pads headers) is
  // copied into memory, so that every view can be read by element.
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // All, by position in the file, as they lie there.
  const std::vector<StoredTensor>& stored() const { return stored_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  MmapFile file_;
  std::vector<StoredTensor> stored_;
  std::map<std::string, TensorView> tensors_;
  std::vector<OwnedTensor> realigned_;
  std::map<std::string, std::string> metadata_;
};

// Every tensor of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names.
class TensorStore {
 public:
  static TensorStore OpenDirectory(const std::filesystem::path& directory);
  static TensorStore OpenFile(const std::filesystem::path& path);

  // Null when absent or not of a DType.
  const TensorView* Find(const std::string& name) const;
  // Throws Error unless present with this shape: "DIR: tensor NAME: expected [..], found [..]".
  const TensorView& Get(const std::string& name, const Shape& expected) const;
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // All, also those of a dtype this project does not compute with, for copying them on.
  const std::map<std::string, StoredTensor>& stored() const { return stored_; }
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  // Takes `file` and of its tensors those that `wanted` names; null: all.
  void Add(SafetensorsFile file, const std::vector<std::string>* wanted);

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;  // never empty once opened
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, StoredTensor> stored_;
};

struct NamedTensor {
  std::string name;
  TensorView view;
};

// How a tensor is stored; the bytes stay where they are.
StoredTensor Stored(const NamedTensor& tensor);

// Writes one file, larger element types first and otherwise in the given order, so that each start
// is aligned to its element size (the header is padded with spaces to 64 bytes). The bytes stream
// from where they lie. Throws Error, and leaves no file, when the disk is full (with the bytes
// needed), a name repeats or a write fails.
void WriteSafetensors(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                      const std::map<std::string, std::string>& metadata);
void WriteSafetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                      const std::map<std::string, std::string>& metadata);

// Writes model.safetensors, or numbered shards with an index once `max_shard_bytes` is exceeded.
void WriteShardedSafetensors(const std::filesystem::path& directory,
                             const std::vector<StoredTensor>& tensors,
                             const std::map<std::string, std::string>& metadata,
                             int64_t max_shard_bytes = int64_t{5} << 30);
void WriteShardedSafetensors(const std::filesystem::path& directory,
                             const std::vector<NamedTensor>& tensors,
                             const std::map<std::string, std::string>& metadata,
                             int64_t max_shard_bytes = int64_t{5} << 30);

}  // namespace palu
