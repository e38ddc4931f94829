#include "linalg/decompositions.h"

#include <limits>

#include "linalg/random_matrix.h"
#include "testing.h"

namespace palu {
namespace {

using testing::Distance;
using testing::ErrorOf;
using testing::FrobeniusNorm;
using testing::Product;
using testing::RandomMatrix;
using testing::Transposed;

constexpr double kEps = std::numeric_limits<double>::epsilon();

// X X^T + I for a random X: well conditioned and positive definite.
Matrix<double> Definite(int64_t n, uint32_t seed) {
  const auto x = RandomMatrix<double>(n, n, seed);
  Matrix<double> a = Product(x, Transposed(x));
  for (int64_t i = 0; i < n; ++i) a(i, i) += 1.0;
  return a;
}

TEST(Decompositions, SyrkAccumulatesTheLowerTriangleOfStridedRows) {
  const int64_t n = 700, dim = 19;  // several panels, the last one partial
  const auto storage = RandomMatrix<float>(n, dim + 3, 1);
  const MatrixView<const float> x{storage.data(), n, dim, dim + 3};
  Matrix<double> c(dim, dim);
  c.Fill(0.5);
  ThreadPool pool(2);
  SyrkAccumulate(pool, x, c);
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t j = 0; j < dim; ++j) {
      double sum = 0.5, magnitude = 0.5;
      for (int64_t r = 0; r < n; ++r) {
        sum += double{x(r, i)} * x(r, j);
        magnitude += std::abs(double{x(r, i)} * x(r, j));
      }
      if (j > i) {
        EXPECT_EQ(c(i, j), 0.5);
      } else {
        EXPECT_NEAR(c(i, j), sum, n * kEps * magnitude);
      }
    }
  }
}

TEST(Decompositions, CholeskyFactorReproducesTheMatrix) {
  for (int64_t n : {1, 2, 65}) {
    const Matrix<double> a = Definite(n, 2);
    Matrix<double> l = Definite(n, 2);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) l(i, j) = 1e300;  // must not be read
    }
    ASSERT_TRUE(CholeskyLower(l));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) EXPECT_EQ(l(i, j), 0.0);
    }
    EXPECT_LE(Distance(Product(l, Transposed(l)), a), n * kEps * FrobeniusNorm(a));
  }
}

TEST(Decompositions, CholeskyRefusesIndefiniteAndNan) {
  Matrix<double> a = Definite(5, 3);
  a(3, 3) = -1.0;
  EXPECT_FALSE(CholeskyLower(a));
  Matrix<double> b = Definite(5, 3);
  b(2, 1) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(CholeskyLower(b));
}

TEST(Decompositions, EigenvaluesOfAKnownSpectrum) {
  // Q diag(d) Q^T with Q a Householder reflection.
  const int64_t n = 33;
  const auto v = RandomMatrix<double>(n, 1, 4);
  const double norm2 = FrobeniusNorm(v) * FrobeniusNorm(v);
  Matrix<double> q(n, n), d(n, n);
  d.Fill(0.0);
  for (int64_t i = 0; i < n; ++i) {
    d(i, i) = static_cast<double>(i) - 5.0;
    for (int64_t j = 0; j < n; ++j) q(i, j) = (i == j) - 2.0 * v(i, 0) * v(j, 0) / norm2;
  }
  Matrix<double> a = Product(Product(q, d), q);
  const double norm = FrobeniusNorm(a);
  const auto values = SymmetricEigenvalues(a);
  ASSERT_EQ(static_cast<int64_t>(values.size()), n);
  for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(values[i], i - 5.0, n * kEps * norm);
}

TEST(Decompositions, SvdReconstructsTallWideAndRankDeficient) {
  const struct {
    int64_t m, n, rank;
  } cases[] = {{40, 13, 13}, {13, 40, 13}, {20, 20, 7}, {1, 5, 1}};
  for (const auto& c : cases) {
    const Matrix<double> a =
        Product(RandomMatrix<double>(c.m, c.rank, 5), RandomMatrix<double>(c.rank, c.n, 6));
    Matrix<double> work(c.m, c.n + 2);  // strided input
    for (int64_t i = 0; i < c.m; ++i) std::copy_n(a.Row(i), c.n, work.Row(i));
    const Svd svd = ThinSvd({work.data(), c.m, c.n, c.n + 2});
    const int64_t k = std::min(c.m, c.n);
    Matrix<double> us(c.m, k), identity(k, k);
    identity.Fill(0.0);
    for (int64_t j = 0; j < k; ++j) {
      identity(j, j) = 1.0;
      if (j > 0) {
        EXPECT_LE(svd.singular[j], svd.singular[j - 1]);
      }
      for (int64_t i = 0; i < c.m; ++i) us(i, j) = svd.u(i, j) * svd.singular[j];
    }
    const double tolerance = static_cast<double>(c.m + c.n) * kEps;
    EXPECT_LE(Distance(Product(us, svd.vt), a), tolerance * FrobeniusNorm(a));
    EXPECT_LE(Distance(Product(Transposed(svd.u), svd.u), identity), tolerance * k);
    EXPECT_LE(Distance(Product(svd.vt, Transposed(svd.vt)), identity), tolerance * k);
    if (c.rank < k) {
      EXPECT_LE(svd.singular[c.rank], tolerance * FrobeniusNorm(a));
    }
  }
}

TEST(Decompositions, SvdNamesTheElementThatIsNotFinite) {
  auto a = RandomMatrix<double>(3, 4, 7);
  a(1, 2) = std::numeric_limits<double>::infinity();
  EXPECT_NE(ErrorOf([&] { ThinSvd(a); }).find("(1, 2)"), std::string::npos);
}

TEST(Decompositions, SolveRightLowerUndoesTheProduct) {
  const int64_t m = 9, n = 31;
  Matrix<double> l = Definite(n, 8);
  ASSERT_TRUE(CholeskyLower(l));
  const auto x = RandomMatrix<double>(m, n, 9);
  Matrix<double> y = Product(x, l);
  SolveRightLower(l, y);
  // Backward stable: the residual in the product is n eps |L| |x|.
  EXPECT_LE(Distance(Product(y, l), Product(x, l)), n * kEps * FrobeniusNorm(l) * FrobeniusNorm(x));
  EXPECT_THROW(SolveRightLower(l, RandomMatrix<double>(2, n + 1, 1)), Error);
}

TEST(Decompositions, LowerBasisIsOrthogonalAndMakesRowsTrapezoidal) {
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{5, 12}, {12, 12}, {20, 7}, {1, 1}}) {
    const auto rows = RandomMatrix<double>(m, n, 11);
    const Matrix<double> q = LowerBasis(rows), product = Product(rows, q);
    Matrix<double> identity(n, n);
    identity.Fill(0);
    for (int64_t i = 0; i < n; ++i) identity(i, i) = 1;
    const double tolerance = static_cast<double>(m + n) * kEps;
    EXPECT_LE(Distance(Product(Transposed(q), q), identity), tolerance * static_cast<double>(n));
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = r + 1; c < n; ++c) {
        EXPECT_NEAR(product(r, c), 0.0, tolerance * FrobeniusNorm(rows));
      }
    }
  }
  auto bad = RandomMatrix<double>(3, 4, 7);
  bad(0, 3) = std::nan("");
  EXPECT_NE(ErrorOf([&] { LowerBasis(bad); }).find("(0, 3)"), std::string::npos);
}

TEST(Decompositions, EmptyMatrices) {
  EXPECT_TRUE(CholeskyLower(MatrixView<double>()));
  EXPECT_TRUE(SymmetricEigenvalues(MatrixView<double>()).empty());
  EXPECT_TRUE(ThinSvd(MatrixView<double>()).singular.empty());
}

}  // namespace
}  // namespace palu
