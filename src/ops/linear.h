// y = x Wᵀ + b with W in its stored type: the product every layer is made of.
#pragma once

#include "tensor/exec.h"
#include "tensor/tensor.h"

namespace palu {

struct LinearOptions {
  const TensorView* bias = nullptr;  // [n], any dtype; null: none
  bool accumulate = false;           // y += x Wᵀ + b instead of y =
};

// x [m, k] float, weight [n, k] in F32, F16 or BF16, y [m, n] float; x and y may be strided and
// must not overlap. Few rows stream the weights once through our own kernel, at memory bandwidth;
// many rows convert tiles of weights to float and multiply them with the library's GEMM.
//
// With exec.deterministic our kernel runs for every m, and a row of y has the same bits alone, in
// any batch and on any number of threads (dot.h says in which order it adds).
// Throws Error when the weight's dtype or shape does not fit.
void Linear(const Exec& exec, MatrixView<const float> x, const TensorView& weight,
            MatrixView<float> y, const LinearOptions& options = {});

// The same on the calling thread, for callers inside their own ParallelFor. Always our kernel,
// hence the same bits as Linear with few rows or with exec.deterministic.
void LinearSerial(MatrixView<const float> x, const TensorView& weight, MatrixView<float> y,
                  const LinearOptions& options = {});

}  // namespace palu
