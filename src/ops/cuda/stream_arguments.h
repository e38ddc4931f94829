// What the streaming kernel takes, and its instances by weight type: one file each.
#pragma once

#include "ops/cuda/streamed_linear.h"

namespace palu::cuda {

struct StreamArguments {
  const float* x = nullptr;  // [M, k], rows x_stride elements apart
  int64_t x_stride = 0;
  RowNorm norm;
  const void* weight = nullptr;
  int64_t weight_stride = 0;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
  int units = 0;      // columns of y
  int up_offset = 0;  // rows between gate and up; 0: no SwiGLU
  int k = 0;
  bool accumulate = false;
};

inline constexpr int kStageBytes = 16 << 10;  // of shared memory per block of threads
inline constexpr int kStages = 4;             // of the rings
inline constexpr int kFewStages = 2;          // where a row does not fit beside those; one row only

// Columns of a row in shared memory: whole stages, whatever the element type.
__host__ __device__ inline int PaddedColumns(int64_t k) {
  constexpr int kColumns = 1024;  // of the widest stage
  return static_cast<int>((k + kColumns - 1) / kColumns * kColumns);
}

// Rows of k columns that fit into the current device's shared memory beside so many stages, at most
// kMaxStreamedRows.
int64_t RowsBeside(int stages, int64_t k);

template <class T>
void LaunchStreamOfType(int64_t rows, const StreamArguments& a, cudaStream_t stream);

}  // namespace palu::cuda
