// Choosing the next tokens from logits on the device (runtime/sampler.h says what is chosen).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/linear.h"

namespace palu::cuda {

// How one token is chosen; the parameters are in range (Validate).
struct DeviceDraw {
  double temperature = 0;  // 0: the first of the largest logits, of NaN when there is one
  double top_p = 1, min_p = 0;
  double uniform = 0;  // in [0, 1)
  int64_t top_k = 0;   // 0: all
};

// tokens[i] from row i of logits [m, vocab] float with draws[i], all in device memory.
//
// Greedy tokens are Sampler's. Otherwise probabilities are whole multiples of 2^-44 of the most
// likely token's, so that sums are exact and come out the same in any order; a token is another
// than Sampler's only where `uniform` or a bound of top_p or min_p lies within the sum of those
// roundings, vocab * 2^-45 of the most likely token's probability, of the border between two
// tokens. When the largest logit is not finite, its token is taken.
void SampleTokens(const DeviceMatrix& logits, const DeviceDraw* draws, int32_t* tokens,
                  cudaStream_t stream);

}  // namespace palu::cuda
