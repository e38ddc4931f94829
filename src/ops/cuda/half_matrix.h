// What decides whether a BF16 matrix is computed in F16 (runtime/cuda/half_weights.h).
#pragma once

#include "ops/cuda/linear.h"

namespace palu::cuda {

struct HalfError {
  double squares = 0;        // sum of w²
  double error_squares = 0;  // sum of (w - F16(w))²; infinite when a weight is out of range
};

// Adds a BF16 matrix without gaps to *sums (device memory).
void AddHalfError(const DeviceMatrix& matrix, HalfError* sums, cudaStream_t stream);

// BF16 becomes F16 in place, to nearest; contiguous.
void ConvertToHalf(const DeviceMatrix& matrix, cudaStream_t stream);

// Raises *largest (device memory, at least 0) to the largest over j < n/2 of
//   (|W_j . norm| r + |b_j|) (|W_{j+n/2} . norm| r + |b_{j+n/2}|),
// a bound of |silu(gate) up| for rows x . norm with |x| <= r; W [n, k] BF16, norm [k], bias [n] or
// null.
void RaiseGatedBound(const DeviceMatrix& gate_up, const float* norm, const float* bias, float r,
                     float* largest, cudaStream_t stream);

// Raises *largest to max |x_i|, x [n] float.
void RaiseToLargest(const float* x, int64_t n, float* largest, cudaStream_t stream);

}  // namespace palu::cuda
