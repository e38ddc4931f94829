// What the kernels of PrefillAttention share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/cuda/attention.h"
#include "tensor/cuda/check.h"

namespace palu::cuda {

inline constexpr int kKeyTile = 64;  // tiles start at multiples of it from the piece's first key

struct PrefillArgs {
  const void *q, *k, *v;
  float *max, *sum, *acc;
  int32_t heads, kv_heads, head_dim;
  float scale_log2;  // 1/sqrt(d) log2(e)
  int32_t count;     // query rows
  int32_t tokens;    // keys
  // Within the piece: row i sees keys up to first_limit + i; with `banded` only those from
  // first_begin + i on, but none before least_begin, and also all up to least_limit. All may be <
  // 0.
  int32_t first_begin, least_begin, first_limit, least_limit;
  bool banded, first;

  __device__ int64_t q_stride() const { return int64_t{heads} * head_dim; }
  __device__ int64_t kv_stride() const { return int64_t{kv_heads} * head_dim; }

  // Index within the piece of the last key that a row sees, below 0 for none, and of the first one.
  template <bool kBanded>
  __device__ int32_t LastKey(int32_t row) const {
    const int32_t last = first_limit + row;
    return ::max(-1, ::min(kBanded ? ::max(last, least_limit) : last, tokens - 1));
  }
  template <bool kBanded>
  __device__ int32_t FirstKey(int32_t row) const {
    return kBanded ? ::max(0, ::max(first_begin + row, least_begin)) : 0;
  }
};

// Blocks of the rows with the most keys start first.
template <int kRows>
dim3 PrefillGrid(const PrefillArgs& args) {
  return dim3(static_cast<unsigned>(args.heads),
              static_cast<unsigned>((args.count + kRows - 1) / kRows));
}
template <int kRows>
__device__ int32_t FirstRow() {
  return static_cast<int32_t>(gridDim.y - 1 - blockIdx.y) * kRows;
}

template <class Kernel>
void LaunchPrefill(Kernel kernel, dim3 grid, int threads, size_t shared, const PrefillArgs& args,
                   cudaStream_t stream) {
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared)),
        "reserving shared memory for prefill");
  kernel<<<grid, threads, shared, stream>>>(args);
  Check(cudaGetLastError(), "launching prefill attention");
}

// T: __half or __nv_bfloat16; kDim: 64 or 128.
template <class T, int kDim>
void PrefillOnTensorCores(const PrefillArgs& args, cudaStream_t stream);

// Any T; head_dim a multiple of 8 up to 256.
template <class T>
void PrefillPlain(const PrefillArgs& args, cudaStream_t stream);

}  // namespace palu::cuda
