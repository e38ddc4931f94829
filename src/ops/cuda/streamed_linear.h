// Products of a few rows with a matrix that is read once, at memory bandwidth, and with what stands
// before and after them in a layer: RMSNorm of the rows, SwiGLU or the residual sum of the result.
#pragma once

#include "ops/cuda/linear.h"

namespace palu::cuda {

// Rows for which there are kernels.
inline constexpr int64_t kMaxStreamedRows = 4;

// RMSNorm on the way into a product; without a weight rows enter as they are.
struct RowNorm {
  const float* weight = nullptr;  // [k]
  float eps = 0;
};

enum class StreamedOutput {
  kStore,   // y = x Wᵀ + b, y [m, n]
  kAdd,     // y += x Wᵀ + b
  kSwiGlu,  // y = silu(gate) * up, y [m, n/2]: W's first n/2 rows give gate, the others up; with
            // norm only
};

// The most rows of k columns that a product takes on the current device, at most kMaxStreamedRows:
// they lie in shared memory.
int64_t MaxStreamedRows(int64_t k);

// Whether the kernels read this matrix: rows of whole 16 bytes at multiples of 16 bytes.
bool Streams(const DeviceMatrix& weight);

// x [m, k] float with m <= MaxStreamedRows(k), rows at multiples of 16 bytes; weight [n, k] of any
// dtype that Streams; bias [n] float or null; y float. Nothing is rounded on the way: weights are
// taken as stored, everything else is float32. Starts while the kernel before still runs and reads
// the first weights then, so no kernel before it on the stream may be writing `weight` unless a
// launch that waits lies between.
void StreamedLinear(const DeviceMatrix& x, const RowNorm& norm, const DeviceMatrix& weight,
                    const float* bias, StreamedOutput output, const DeviceMatrix& y,
                    cudaStream_t stream);

}  // namespace palu::cuda
