#include "ops/softmax_state.h"

#include <cmath>

#include "ops/reference/reference.h"
#include "ops/vector.h"
#include "ops_testing.h"

namespace palu::testing {
namespace {

// A float result against the exact value, in units of the last place (of the smallest subnormal
// near zero).
double UlpError(float got, double exact) {
  const float nearest = static_cast<float>(exact);
  if (std::isinf(nearest) || std::isinf(got)) return got == nearest ? 0 : 1e9;
  const float next = std::nextafter(std::fabs(nearest), INFINITY);
  const double ulp = static_cast<double>(next) - std::fabs(static_cast<double>(nearest));
  return std::fabs(got - exact) / ulp;
}

TEST(SoftmaxState, ExpIsWithinTwoUlp) {
  std::vector<float> x;
  for (float v = -110.0f; v < 92.0f; v += 0.00037f) x.push_back(v);
  ForEachTarget([&] {
    auto y = x;
    ExpInPlace(y.data(), static_cast<int64_t>(y.size()), 0.0f);
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      if (x[i] > 88.7f && x[i] < 88.8f) continue;  // where rounding decides between max and inf
      worst = std::max(worst, UlpError(y[i], std::exp(static_cast<double>(x[i]))));
    }
    EXPECT_LE(worst, 2.0);
    RecordProperty("worst_ulp", std::to_string(worst));
  });
}

TEST(SoftmaxState, SpecialScores) {
  ForEachTarget([] {
    const float inf = INFINITY;
    for (int64_t n : kSizes) {
      std::vector<float> masked(static_cast<size_t>(n), -inf);
      EXPECT_EQ(MaxOf(masked.data(), n), -inf);
      EXPECT_EQ(ExpInPlace(masked.data(), n, -inf), 0.0f);
      for (float v : masked) EXPECT_EQ(v, 0.0f);
      for (int64_t at = 0; at < n; at += 13) {
        auto scores = RandomFloats(n, 1);
        scores[static_cast<size_t>(at)] = 100.0f;
        EXPECT_EQ(MaxOf(scores.data(), n), 100.0f);
        scores[static_cast<size_t>(at)] = NAN;
        EXPECT_TRUE(std::isnan(MaxOf(scores.data(), n)));
        ExpInPlace(scores.data(), n, 1.0f);
        for (int64_t i = 0; i < n; ++i) {
          EXPECT_EQ(std::isnan(scores[static_cast<size_t>(i)]), i == at);
        }
      }
    }
    EXPECT_EQ(MaxOf(nullptr, 0), -inf);
  });
}

struct Partial {
  SoftmaxState state;
  std::vector<float> acc;
};

// Scores [begin, end) in blocks of `block`.
Partial Attend(std::span<const float> scores, MatrixView<const float> values, int64_t begin,
               int64_t end, int64_t block) {
  Partial result{{}, std::vector<float>(static_cast<size_t>(values.cols), 0.0f)};
  MatrixView<float> acc(result.acc.data(), 1, values.cols);
  for (int64_t t = begin; t < end; t += block) {
    const int64_t n = std::min(block, end - t);
    std::vector<float> p(scores.begin() + t, scores.begin() + t + n);
    Scale(Absorb(&result.state, p.data(), n), acc.data, values.cols);
    AccumulateRows(MatrixView<float>(p.data(), 1, n), {values.Row(t), DType::kF32, values.stride},
                   acc);
  }
  return result;
}

TEST(SoftmaxState, PiecesMergeToTheWhole) {
  const int64_t n = 200, d = 65;
  const auto scores = RandomFloats(n, 1, 8.0f);
  const StridedMatrix values(n, d, 0, 2);
  std::vector<double> expected(static_cast<size_t>(d));
  reference::SoftmaxAverage(scores, values.view, expected);
  ForEachTarget([&] {
    for (int64_t split : {int64_t{0}, int64_t{1}, int64_t{77}, n}) {
      Partial left = Attend(scores, values.view, 0, split, 64);
      const Partial right = Attend(scores, values.view, split, n, 17);
      Merge(&left.state, left.acc.data(), right.state, right.acc.data(), d);
      Normalize(left.state, left.acc.data(), d);
      for (size_t c = 0; c < expected.size(); ++c) {
        // Weights are off by exp's 2 ulp plus |score - max| roundings of the difference (< 64),
        // sums by n roundings; values are below 5, weights sum to one.
        EXPECT_NEAR(left.acc[c], expected[c], (n + 64 + 16) * kEps * 5);
      }
    }
  });
}

TEST(SoftmaxState, NothingAttendedGivesZeros) {
  SoftmaxState state;
  std::vector<float> acc(5, 0.0f), other(5, 0.0f);
  Merge(&state, acc.data(), SoftmaxState{}, other.data(), 5);
  Normalize(state, acc.data(), 5);
  for (float v : acc) EXPECT_EQ(v, 0.0f);
}

}  // namespace
}  // namespace palu::testing
