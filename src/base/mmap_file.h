// A whole file mapped read only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace palu {

class MmapFile {
 public:
  MmapFile() = default;
  // Throws Error naming the path and the system's reason. An empty file maps to an empty span.
  static MmapFile Open(const std::filesystem::path& path);
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace palu
