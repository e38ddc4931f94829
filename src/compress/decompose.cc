#include "compress/decompose.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "linalg/decompositions.h"
#include "linalg/gemm.h"

namespace palu {

GroupSvd DecomposeGroup(MatrixView<const double> weight, MatrixView<const double> whitening) {
  Matrix<double> whitened(weight.rows, weight.cols);  // W L
  if (whitening.data == nullptr) {
    for (int64_t r = 0; r < weight.rows; ++r) {
      std::copy_n(weight.Row(r), weight.cols, whitened.Row(r));
    }
  } else {
    Require(whitening.rows == weight.cols && whitening.cols == weight.cols,
            "decomposition: expected a whitening factor [{}, {}], found [{}, {}]", weight.cols,
            weight.cols, whitening.rows, whitening.cols);
    Gemm(Trans::kNo, Trans::kNo, 1.0, weight, whitening, 0.0, whitened);
  }
  Svd svd = ThinSvd(whitened);
  if (whitening.data != nullptr) SolveRightLower(whitening, svd.vt);
  return {std::move(svd.u), std::move(svd.singular), std::move(svd.vt)};
}

GroupFactors GroupSvd::Truncate(int64_t rank) const {
  Require(rank >= 1 && rank <= left.rows(), "decomposition: rank {} is outside [1, {}]", rank,
          left.rows());
  const int64_t kept = std::min(rank, left.cols());
  GroupFactors out{Matrix<double>(left.rows(), rank), Matrix<double>(rank, right.cols()),
                   std::vector<double>(static_cast<size_t>(rank), 0.0)};
  out.up.Fill(0.0);
  out.down.Fill(0.0);
  for (int64_t i = 0; i < kept; ++i) {
    out.singular[i] = singular[i];
    const double root = std::sqrt(singular[i]);
    for (int64_t r = 0; r < left.rows(); ++r) out.up(r, i) = left(r, i) * root;
    for (int64_t c = 0; c < right.cols(); ++c) out.down(i, c) = right(i, c) * root;
  }
  return out;
}

double GroupSvd::DiscardedEnergy(int64_t rank) const {
  double sum = 0.0;  // smallest first keeps the small ones
  for (int64_t i = static_cast<int64_t>(singular.size()) - 1; i >= rank; --i) {
    sum += singular[i] * singular[i];
  }
  return sum;
}

}  // namespace palu
