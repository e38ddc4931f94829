#include "compress/rotary_basis.h"

#include "base/error.h"
#include "linalg/random_matrix.h"
#include "testing.h"

namespace palu::testing {
namespace {

GroupFactors Random(int64_t rows, int64_t rank, int64_t hidden) {
  return {RandomMatrix<double>(rows, rank, 1), RandomMatrix<double>(rank, hidden, 2),
          std::vector<double>(static_cast<size_t>(rank), 1.0)};
}

TEST(RotaryBasis, KeepsTheProductAndClearsWhatFastRowsDoNotNeed) {
  for (const int bits : {2, 3, 4, 16}) {
    for (const bool flat : {false, true}) {
      const RotaryRows rows{64, 10, bits};
      constexpr int64_t kHeads = 4, kRank = 128, kHidden = 96;
      GroupFactors factors = Random(kHeads * 64, kRank, kHidden);
      const Matrix<double> before = Product(factors.up, factors.down);
      TurnToRotaryBasis(rows, flat, factors);
      const Matrix<double> after = Product(factors.up, factors.down);
      // Sums of 128 products of normal numbers, turned by orthogonal matrices: a few hundred
      // roundings of numbers below 40.
      for (int64_t r = 0; r < before.rows(); ++r) {
        for (int64_t c = 0; c < kHidden; ++c) ASSERT_NEAR(after(r, c), before(r, c), 1e-11);
      }
      const std::vector<int64_t> bounds = RotaryBounds(rows, kHeads, kRank);
      ASSERT_LT(bounds.front(), kRank);
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t i = 0; i < rows.count(); ++i) {
          for (const int64_t latent : LatentsBeyond(bits, kRank, bounds[static_cast<size_t>(h)])) {
            EXPECT_EQ(factors.up(rows.Row(h, i), latent), 0.0);
          }
        }
      }
    }
  }
}

TEST(RotaryBasis, IsOrthogonal) {
  // Turned with the identity as A, rows of A are those of Q^T.
  GroupFactors factors = Random(128, 64, 64);
  factors.down.Fill(0);
  for (int64_t i = 0; i < 64; ++i) factors.down(i, i) = 1;
  TurnToRotaryBasis({32, 6, 4}, true, factors);
  for (int64_t a = 0; a < 64; ++a) {
    for (int64_t b = 0; b < 64; ++b) {
      double dot = 0;
      for (int64_t i = 0; i < 64; ++i) dot += factors.down(a, i) * factors.down(b, i);
      EXPECT_NEAR(dot, a == b ? 1.0 : 0.0, 1e-13);
    }
  }
}

TEST(RotaryBasis, TakesGroupsThatNeedAllLatents) {
  GroupFactors factors = Random(64, 16, 40);
  const Matrix<double> before = Product(factors.up, factors.down);
  TurnToRotaryBasis({32, 12, 4}, true, factors);
  const Matrix<double> after = Product(factors.up, factors.down);
  for (int64_t r = 0; r < before.rows(); ++r) {
    for (int64_t c = 0; c < before.cols(); ++c) EXPECT_NEAR(after(r, c), before(r, c), 1e-12);
  }
}

TEST(RotaryBasis, RefusesWhatIsNoGroup) {
  GroupFactors factors = Random(100, 16, 8);
  EXPECT_THROW(TurnToRotaryBasis({32, 6, 4}, false, factors), Error);
  factors = Random(64, 16, 8);
  EXPECT_THROW(TurnToRotaryBasis({32, 17, 4}, false, factors), Error);
  EXPECT_THROW(TurnToRotaryBasis({32, 0, 4}, false, factors), Error);
}

}  // namespace
}  // namespace palu::testing
