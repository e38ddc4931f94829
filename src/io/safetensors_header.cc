#include "io/safetensors_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "io/safetensors_sax.h"

namespace palu {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are mapped as they lie on disk");

constexpr std::pair<std::string_view, int> kTypes[] = {
    {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"F64", 64},    {"I64", 64},
    {"I32", 32},    {"I16", 16},    {"I8", 8},      {"U8", 8},      {"BOOL", 8},
    {"U16", 16},    {"U32", 32},    {"U64", 64},    {"C64", 64},    {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};

// The ranges, in order, must follow each other from 0 to the end of the buffer.
void CheckRanges(const std::vector<SafetensorsEntry>& entries, uint64_t buffer,
                 std::string_view where) {
  int64_t end = 0;
  for (const SafetensorsEntry& entry : entries) {
    Require(entry.begin <= entry.end && static_cast<uint64_t>(entry.end) <= buffer,
            "{}: tensor {}: field data_offsets: expected a range within {} bytes, found [{}, {}]",
            where, entry.name, buffer, entry.begin, entry.end);
    const int64_t bytes = SafetensorsBytes(entry.dtype, entry.shape, where, entry.name);
    Require(entry.end - entry.begin == bytes,
            "{}: tensor {}: expected {} bytes for {} {}, found a range of {}", where, entry.name,
            bytes, entry.dtype, ToString(entry.shape), entry.end - entry.begin);
    Require(entry.begin >= end, "{}: tensor {}: overlaps the tensor before it at byte {}", where,
            entry.name, entry.begin);
    Require(entry.begin == end, "{}: tensor {}: a hole of {} bytes lies before it", where,
            entry.name, entry.begin - end);
    end = entry.end;
  }
  Require(static_cast<uint64_t>(end) == buffer,
          "{}: expected {} bytes of tensors as the header says, found {}", where, end, buffer);
}

}  // namespace

std::optional<int> SafetensorsBits(std::string_view dtype) {
  for (const auto& [name, bits] : kTypes) {
    if (name == dtype) return bits;
  }
  return std::nullopt;
}

int64_t SafetensorsBytes(std::string_view dtype, const Shape& shape, std::string_view where,
                         std::string_view name) {
  const auto bits = SafetensorsBits(dtype);
  Require(bits.has_value(),
          "{}: tensor {}: expected a dtype such as F32, F16 or BF16, found \"{}\"", where, name,
          dtype);
  int64_t total = *bits;
  for (int64_t extent : shape) {
    Require(extent >= 0 && !__builtin_mul_overflow(total, extent, &total),
            "{}: tensor {}: shape {} of {} does not fit in 63 bits", where, name, ToString(shape),
            dtype);
  }
  Require(total % 8 == 0, "{}: tensor {}: expected whole bytes, found {} bits", where, name, total);
  return total / 8;
}

SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, std::string_view where) {
  uint64_t length = 0;
  Require(file.size() >= sizeof(length),
          "{}: truncated: expected at least {} bytes of safetensors, found {}", where,
          sizeof(length), file.size());
  std::memcpy(&length, file.data(), sizeof(length));
  Require(length <= kMaxSafetensorsHeader, "{}: header: expected at most {} bytes, found {}", where,
          kMaxSafetensorsHeader, length);
  Require(length <= file.size() - sizeof(length),
          "{}: truncated: expected a header of {} bytes, found {}", where, length,
          file.size() - sizeof(length));
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(length), length);
  Require(text.starts_with('{'), "{}: not a safetensors file: its header is no JSON object", where);

  SafetensorsHeader header;
  header.buffer_offset = sizeof(length) + length;
  ReadSafetensorsJson(text, where, header);
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  CheckRanges(header.entries, file.size() - header.buffer_offset, where);
  return header;
}

}  // namespace palu
