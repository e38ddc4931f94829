// The whitening factor of the calibration inputs (Palu, section 3.2, after SVD-LLM).
#pragma once

#include "tensor/tensor.h"

namespace palu {

// L with L L^T = gram, lower triangular with zeros above. gram: [hidden, hidden], only the lower
// triangle is read. A Gram matrix that is not positive definite (fewer tokens than dimensions, dead
// channels) gets (-lambda_min + 1e-3) I added first, and *repaired, when given, says so. Throws
// Error when the matrix is not finite.
Matrix<double> WhiteningFactor(MatrixView<const double> gram, bool* repaired = nullptr);

}  // namespace palu
