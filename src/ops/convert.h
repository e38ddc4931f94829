// Bulk conversion between stored element types and float, bit for bit what base/half.h does one
// element at a time: exact on the way up, round to nearest even on the way down.
#pragma once

#include "tensor/tensor.h"

namespace palu {

// out[i] = in[i] for i in [0, n). F64 input is rounded to float.
void ToFloat(const void* in, DType dtype, int64_t n, float* out);

// The whole tensor: out has weight.size() elements.
void ToFloat(const TensorView& in, float* out);

// out[i] = in[i] rounded to `dtype` (overflow to infinity, NaN kept quiet).
void FromFloat(const float* in, int64_t n, DType dtype, void* out);

}  // namespace palu
