// Root-mean-square normalisation (Zhang & Sennrich 2019): y = x / sqrt(mean(x²) + eps) * w.
#pragma once

#include "tensor/exec.h"
#include "tensor/tensor.h"

namespace palu {

// Each row of x [tokens, d] into y [tokens, d]; weight [d] of any dtype. y may be x itself.
void RmsNorm(const Exec& exec, MatrixView<const float> x, const TensorView& weight, double eps,
             MatrixView<float> y);

// QK-norm: in place on each head of x [tokens, heads * d]; weight [d] is shared by the heads.
void RmsNormHeads(const Exec& exec, const TensorView& weight, double eps, MatrixView<float> x);

}  // namespace palu
