// Exact passages between stored elements and float64.
#pragma once

#include "tensor/tensor.h"

namespace palu {

// A matrix (or vector, as one column) in float64; every stored type fits exactly.
Matrix<double> ToDouble(const TensorView& tensor);

// Rounds once, to nearest even, to `dtype`.
OwnedTensor Rounded(MatrixView<const double> values, DType dtype, Shape shape);

// The tensor in another dtype, rounded once.
OwnedTensor Converted(const TensorView& tensor, DType dtype);

}  // namespace palu
