#include "compress/two_sided.h"

#include <utility>

#include "base/error.h"
#include "linalg/decompositions.h"
#include "linalg/gemm.h"

namespace palu {

TwoSidedFactors DecomposeTwoSided(MatrixView<const double> weight, MatrixView<const double> input,
                                  MatrixView<const double> output) {
  Require(input.rows == weight.cols && input.cols == weight.cols && output.rows == weight.rows &&
              output.cols == weight.rows,
          "two-sided decomposition of [{}, {}]: expected factors [{}, {}] of the output and "
          "[{}, {}] of the input, found [{}, {}] and [{}, {}]",
          weight.rows, weight.cols, weight.rows, weight.rows, weight.cols, weight.cols, output.rows,
          output.cols, input.rows, input.cols);
  Matrix<double> half(weight.rows, weight.cols), weighted(weight.rows, weight.cols);
  Gemm(Trans::kYes, Trans::kNo, 1.0, output, weight, 0.0, half);
  Gemm(Trans::kNo, Trans::kNo, 1.0, half, input, 0.0, weighted);
  Svd svd = ThinSvd(weighted);
  const auto k = std::ssize(svd.singular);

  TwoSidedFactors factors;
  factors.down = std::move(svd.vt);
  SolveRightLower(input, factors.down);
  Matrix<double> transposed(k, weight.rows);  // P^T, then P^T R^-1 = U^T
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t r = 0; r < weight.rows; ++r) transposed(i, r) = svd.u(r, i);
  }
  SolveRightLower(output, transposed);
  factors.up.Resize(weight.rows, k);
  for (int64_t i = 0; i < k; ++i) {
    const double s = svd.singular[static_cast<size_t>(i)];
    for (int64_t r = 0; r < weight.rows; ++r) factors.up(r, i) = transposed(i, r);
    for (int64_t c = 0; c < weight.cols; ++c) factors.down(i, c) *= s;
    factors.energy.push_back(s * s);
  }
  return factors;
}

}  // namespace palu
