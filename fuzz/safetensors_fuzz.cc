// The header of a safetensors file, and what it promises about the ranges.
#include <cstdlib>

#include "base/error.h"
#include "io/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto header = palu::ParseSafetensorsHeader(std::as_bytes(std::span(data, size)), "input");
    int64_t end = 0;
    for (const palu::SafetensorsEntry& entry : header.entries) {
      if (entry.begin != end || entry.end < entry.begin) std::abort();
      end = entry.end;
    }
    if (header.buffer_offset + static_cast<size_t>(end) != size) std::abort();
  } catch (const palu::Error&) {
  }
  return 0;
}
