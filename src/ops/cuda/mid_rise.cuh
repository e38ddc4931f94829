// The scales of ops/mid_rise.h as a table in device memory.
#pragma once

#include "ops/mid_rise.h"

namespace palu::cuda {

struct MidRiseTable {
  float scales[256];

  constexpr MidRiseTable() : scales() {
    for (int i = 0; i < 256; ++i) scales[i] = MidRiseScale(static_cast<uint8_t>(i));
  }
};
static __device__ const MidRiseTable kMidRiseTable;

__device__ inline float LoadMidRiseScale(uint8_t code) {
  return __ldg(kMidRiseTable.scales + code);
}

}  // namespace palu::cuda
