// The header of a safetensors file, checked without looking at the tensors' bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace palu {

inline constexpr uint64_t kMaxSafetensorsHeader =
    100'000'000;  // bytes, as in the format's own code

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // the format's spelling, also of types this project does not compute with
  Shape shape;
  int64_t begin = 0, end = 0;  // bytes, relative to the buffer after the header
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // by position in the buffer, which they cover exactly
  std::map<std::string, std::string> metadata;
  size_t buffer_offset = 0;  // bytes from the start of the file
};

// Bits per element of every type safetensors defines ("BOOL", "I64", "F8_E4M3", ...).
std::optional<int> SafetensorsBits(std::string_view dtype);

// Bytes of a tensor. Throws Error, starting "WHERE: tensor NAME", for an unknown dtype and when
// they overflow or are no whole number.
int64_t SafetensorsBytes(std::string_view dtype, const Shape& shape, std::string_view where,
                         std::string_view name);

// `file` is the whole file; `where` names it in errors. Throws Error for a truncated file, a header
// over kMaxSafetensorsHeader, malformed or repeated entries, unknown dtypes, sizes that overflow or
// differ from the range, and ranges that overlap, leave holes or miss the end of the file.
SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, std::string_view where);

}  // namespace palu
