#include "compress/two_sided.h"

#include <utility>

#include "base/error.h"
#include "linalg/decompositions.h"
#include "linalg/gemm.h"

namespace palu {

Matrix<double> WeighOutputs(MatrixView<const double> weight, MatrixView<const double> output) {
  Matrix<double> weighted(weight.rows, weight.cols);
  Gemm(Trans::kYes, Trans::kNo, 1.0, output, weight, 0.0, weighted);
  return weighted;
}

TwoSidedFactors TwoSidedFrom(GroupSvd svd, MatrixView<const double> output) {
  const auto k = std::ssize(svd.singular);
  const int64_t rows = output.rows;
  TwoSidedFactors factors;
  factors.down = std::move(svd.right);
  Matrix<double> transposed(k, rows);  // P^T, then P^T R^-1 = U^T
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t r = 0; r < rows; ++r) transposed(i, r) = svd.left(r, i);
  }
  SolveRightLower(output, transposed);
  factors.up.Resize(rows, k);
  for (int64_t i = 0; i < k; ++i) {
    const double s = svd.singular[static_cast<size_t>(i)];
    for (int64_t r = 0; r < rows; ++r) factors.up(r, i) = transposed(i, r);
    for (int64_t c = 0; c < factors.down.cols(); ++c) factors.down(i, c) *= s;
    factors.energy.push_back(s * s);
  }
  return factors;
}

TwoSidedFactors DecomposeTwoSided(MatrixView<const double> weight, MatrixView<const double> input,
                                  MatrixView<const double> output) {
  Require(input.rows == weight.cols && input.cols == weight.cols && output.rows == weight.rows &&
              output.cols == weight.rows,
          "two-sided decomposition of [{}, {}]: expected factors [{}, {}] of the output and "
          "[{}, {}] of the input, found [{}, {}] and [{}, {}]",
          weight.rows, weight.cols, weight.rows, weight.rows, weight.cols, weight.cols, output.rows,
          output.cols, input.rows, input.cols);
  Matrix<double> weighted(weight.rows, weight.cols);
  Gemm(Trans::kNo, Trans::kNo, 1.0, WeighOutputs(weight, output), input, 0.0, weighted);
  Svd svd = ThinSvd(weighted);
  SolveRightLower(input, svd.vt);
  return TwoSidedFrom({std::move(svd.u), std::move(svd.singular), std::move(svd.vt)}, output);
}

}  // namespace palu
