#include "compress/two_sided.h"

#include <cmath>

#include "compress/whiten.h"
#include "linalg/gemm.h"
#include "linalg/random_matrix.h"
#include "testing.h"

namespace palu {
namespace {

using testing::RandomMatrix;

// X X^T of a random X, positive definite.
Matrix<double> RandomCovariance(int64_t n, uint32_t seed) {
  const Matrix<double> x = RandomMatrix<double>(n, 2 * n, seed);
  Matrix<double> c(n, n);
  Gemm(Trans::kNo, Trans::kYes, 1.0, x, x, 0.0, c);
  return c;
}

double Trace(const Matrix<double>& g, const Matrix<double>& e, const Matrix<double>& c) {
  Matrix<double> ge(g.rows(), e.cols()), gec(g.rows(), e.cols());
  Gemm(Trans::kNo, Trans::kNo, 1.0, g, e, 0.0, ge);
  Gemm(Trans::kNo, Trans::kNo, 1.0, ge, c, 0.0, gec);
  double trace = 0;
  for (int64_t r = 0; r < e.rows(); ++r) {
    for (int64_t k = 0; k < e.cols(); ++k) trace += gec(r, k) * e(r, k);
  }
  return trace;
}

class TwoSided : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {};

// tr(G E C E^T) of the error E = W - U_r A_r is the sum of the energies that were cut off. Both are
// sums over at most rows * hidden * rank products of entries of magnitude below 1e3, in float64.
TEST_P(TwoSided, EnergiesAreWhatTruncationCosts) {
  const auto [rows, hidden] = GetParam();
  const Matrix<double> w = RandomMatrix<double>(rows, hidden, 1);
  const Matrix<double> c = RandomCovariance(hidden, 2), g = RandomCovariance(rows, 3);
  const TwoSidedFactors f = DecomposeTwoSided(w, WhiteningFactor(c), WhiteningFactor(g));
  const auto k = std::min(rows, hidden);
  ASSERT_EQ(std::ssize(f.energy), k);
  double total = 0;
  for (const double e : f.energy) total += e;
  for (const int64_t rank : {int64_t{1}, k / 2, k}) {
    Matrix<double> error(rows, hidden);
    std::copy_n(w.data(), w.size(), error.data());
    Gemm(Trans::kNo, Trans::kNo, -1.0, f.up.View().ColRange(0, rank),
         f.down.View().RowRange(0, rank), 1.0, error);
    double cut = 0;
    for (int64_t i = rank; i < k; ++i) cut += f.energy[static_cast<size_t>(i)];
    EXPECT_NEAR(Trace(g, error, c), cut, 1e-9 * total) << rank;
  }
}

TEST_P(TwoSided, LatentsAreUncorrelatedWithTheirEnergiesAsVariances) {
  const auto [rows, hidden] = GetParam();
  const Matrix<double> w = RandomMatrix<double>(rows, hidden, 4);
  const Matrix<double> c = RandomCovariance(hidden, 5);
  const TwoSidedFactors f =
      DecomposeTwoSided(w, WhiteningFactor(c), WhiteningFactor(RandomCovariance(rows, 6)));
  const int64_t k = f.down.rows();
  Matrix<double> ac(k, hidden), aca(k, k);
  Gemm(Trans::kNo, Trans::kNo, 1.0, f.down, c, 0.0, ac);
  Gemm(Trans::kNo, Trans::kYes, 1.0, ac, f.down, 0.0, aca);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      EXPECT_NEAR(aca(i, j), i == j ? f.energy[static_cast<size_t>(i)] : 0, 1e-9 * f.energy[0]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, TwoSided,
                         ::testing::Values(std::pair<int64_t, int64_t>{12, 20},
                                           std::pair<int64_t, int64_t>{20, 12},
                                           std::pair<int64_t, int64_t>{16, 16}));

TEST(TwoSidedShapes, AreChecked) {
  const Matrix<double> w = RandomMatrix<double>(4, 6, 1);
  const Matrix<double> wrong(5, 5), right(6, 6);
  EXPECT_NE(testing::ErrorOf([&] { DecomposeTwoSided(w, right, wrong); }).find("expected factors"),
            std::string::npos);
}

}  // namespace
}  // namespace palu
