// RMSNorm and RoPE of one head by one warp.
#pragma once

#include "ops/cuda/reduce.cuh"
#include "ops/cuda/rope_angle.cuh"

namespace palu::cuda {

inline constexpr int kMaxRotatedDim = 256;

// row [head_dim] -> write(i, value), each once; write may put it in place. A lane holds pairs
// (i, i + d/2), at most four of them. norm [head_dim] or null.
template <class Write>
__device__ inline void RotateHead(const RopeView& rope, int head_dim, const float* norm, float eps,
                                  int64_t position, const float* row, int lane,
                                  const Write& write) {
  constexpr int kPairs = kMaxRotatedDim / 64;
  const int half = head_dim / 2;
  float re[kPairs], im[kPairs], squares = 0;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = lane + 32 * p;
    re[p] = i < half ? row[i] : 0;
    im[p] = i < half ? row[i + half] : 0;
    squares = fmaf(re[p], re[p], fmaf(im[p], im[p], squares));
  }
  const float scale =
      norm == nullptr ? 1.0f : 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(head_dim) + eps);
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = lane + 32 * p;
    if (i >= half) break;
    if (norm != nullptr) {
      re[p] *= scale * norm[i];
      im[p] *= scale * norm[i + half];
    }
    const float2 angle = CosSin(rope, position, i);
    write(i, re[p] * angle.x - im[p] * angle.y);
    write(i + half, im[p] * angle.x + re[p] * angle.y);
  }
}

}  // namespace palu::cuda
