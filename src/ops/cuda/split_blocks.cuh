// Where a sequence's rows W of slow pairs begin.
#pragma once

#include "ops/cuda/split_plan.h"

namespace palu::cuda {

// Blocks of T tokens of the sequences before one, by all lanes of a warp.
__device__ inline int SlowBlocksBefore(const SequencesView& sequences, int sequence, int tokens) {
  int sum = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < sequence; i += 32) {
    sum += (sequences.lengths[i] + tokens - 1) / tokens;
  }
#pragma unroll
  for (int mask = 16; mask >= 1; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  return sum;
}

}  // namespace palu::cuda
