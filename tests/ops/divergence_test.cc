#include "ops/divergence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ops/log_softmax.h"

namespace palu {
namespace {

// p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): 1/2 ln 2 + 0 - 1/4 ln 2. The logits' own rounding to
// float, at most 2^-24 * 2 each, moves a divergence by no more than their sum.
TEST(KlDivergence, ByHand) {
  const auto log = [](double p) { return static_cast<float>(std::log(p)); };
  const std::vector<float> p{log(0.5), log(0.25), log(0.25)};
  const std::vector<float> q{log(0.25), log(0.25), log(0.5)};
  EXPECT_NEAR(KlDivergence(p, q), 0.25 * std::log(2), 6 * 0x1p-24 * 2);
}

TEST(KlDivergence, ShiftsOfLogitsChangeNothing) {
  const std::vector<float> p{1, 2, 4}, shifted{101, 102, 104}, q{3, 0, 1};
  EXPECT_EQ(KlDivergence(p, shifted), 0);
  EXPECT_DOUBLE_EQ(KlDivergence(p, q), KlDivergence(shifted, q));
}

TEST(KlDivergence, NeitherOverflowsNorGoesNegative) {
  const std::vector<float> p{3e4f, -3e4f}, q{-3e4f, 3e4f};
  EXPECT_DOUBLE_EQ(KlDivergence(p, q), 6e4);
  const std::vector<float> near{1, std::nextafter(1.0f, 2.0f), 0.5f}, row{1, 1, 0.5f};
  EXPECT_GE(KlDivergence(row, near), 0);
  EXPECT_LT(KlDivergence(row, near), 1e-13);  // second order in 2^-23
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(KlDivergence(std::vector<float>{0, nan}, std::vector<float>{0, 1})));
}

TEST(CompareRows, IsWhatItsPartsSay) {
  const std::vector<float> p{1, 4, 2, 4}, q{3, 0, 5, 1};
  const RowDivergence row = CompareRows(p, q, 2);
  EXPECT_EQ(row.kl, KlDivergence(p, q));
  EXPECT_EQ(row.p_logprob, LogProb(p, 2));
  EXPECT_EQ(row.q_logprob, LogProb(q, 2));
  EXPECT_EQ(row.p_argmax, 1);  // the first of ties
  EXPECT_EQ(row.q_argmax, 2);
}

}  // namespace
}  // namespace palu
