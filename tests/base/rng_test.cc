#include "base/rng.h"

#include <cmath>
#include <set>
#include <vector>

#include "testing.h"

namespace palu {
namespace {

TEST(Rng, SplitMix64MatchesThePublishedSequence) {
  uint64_t state = 1234567;
  for (uint64_t expected : {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                            4593380528125082431u, 16408922859458223821u}) {
    EXPECT_EQ(SplitMix64(state), expected);
  }
}

TEST(Rng, XoshiroMatchesTheReferenceImplementation) {
  Rng rng(Rng::State{1, 2, 3, 4});
  for (uint64_t expected : {uint64_t{41943041}, uint64_t{58720359}, uint64_t{3588806011781223},
                            uint64_t{3591011842654386}, 9228616714210784205u, 9973669472204895162u,
                            14011001112246962877u, 12406186145184390807u, 15849039046786891736u,
                            10450023813501588000u}) {
    EXPECT_EQ(rng.NextU64(), expected);
  }
}

TEST(Rng, SeedsAndStreamsRepeatAndDiffer) {
  std::set<uint64_t> firsts;
  for (uint64_t seed : {0, 1, 2}) {
    for (uint64_t stream : {0, 1, 2}) {
      Rng a(seed, stream), b(seed, stream);
      EXPECT_EQ(a.NextU64(), b.NextU64());
      firsts.insert(a.NextU64());
    }
  }
  EXPECT_EQ(firsts.size(), 9u);
}

// The doubles are the same bits everywhere: these values hold for every compiler and C library.
TEST(Rng, NormalIsPortable) {
  Rng rng(42);
  const double expected[] = {0x1.f679d98b6ab7bp-1, -0x1.21a610c887574p-1, 0x1.571f94d19c30ap+0,
                             0x1.9bf7e7b2c7e67p-2};
  for (double value : expected) EXPECT_EQ(rng.Normal(), value);
}

// Sample moments of n draws stay within five of their standard errors.
TEST(Rng, UniformHasItsMoments) {
  constexpr int n = 200000;
  Rng rng(1);
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double x = rng.Uniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / n, 1.0 / 2, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(squares / n, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
}

TEST(Rng, NormalHasItsMoments) {
  constexpr int n = 200000;
  Rng rng(2);
  double moments[5] = {};
  for (int i = 0; i < n; ++i) {
    const double x = rng.Normal();
    double power = 1;
    for (double& moment : moments) moment += power / n, power *= x;
  }
  EXPECT_NEAR(moments[1], 0, 5 * std::sqrt(1.0 / n));
  EXPECT_NEAR(moments[2], 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(moments[3], 0, 5 * std::sqrt(15.0 / n));
  EXPECT_NEAR(moments[4], 3, 5 * std::sqrt(96.0 / n));
}

TEST(Rng, BelowStaysInRangeAndReachesAllValues) {
  Rng rng(3);
  for (uint64_t bound : {1, 2, 3, 7, 64, 100}) {
    std::set<uint64_t> seen;
    for (int i = 0; i < 5000; ++i) seen.insert(rng.Below(bound));
    EXPECT_EQ(seen.size(), bound);
    EXPECT_LT(*seen.rbegin(), bound);
  }
}

TEST(Rng, FillUsesTheScalarSequence) {
  Rng a(4), b(4);
  std::vector<float> normal(7), uniform(9);
  a.FillNormal(normal, 0.5f);
  a.FillUniform(uniform, -2.0f, 3.0f);
  for (float x : normal) EXPECT_EQ(x, static_cast<float>(b.Normal() * 0.5));
  for (float x : uniform) {
    EXPECT_EQ(x, static_cast<float>(std::fma(b.Uniform(), 5.0, -2.0)));
    EXPECT_GE(x, -2.0f);
    EXPECT_LE(x, 3.0f);
  }
}

}  // namespace
}  // namespace palu
