// RMS norm, SwiGLU, log-softmax and embedding: one row in, one row out.
#include <cmath>

#include "ops/embedding.h"
#include "ops/log_softmax.h"
#include "ops/reference/reference.h"
#include "ops/rms_norm.h"
#include "ops/swiglu.h"
#include "ops_testing.h"
#include "testing.h"

namespace palu::testing {
namespace {

TEST(RmsNorm, MatchesReferenceForAllWeightTypes) {
  ThreadPool pool(2);
  ForEachTarget([&] {
    for (int64_t d : kSizes) {
      for (DType dtype : kStored) {
        const RandomTensor weight(dtype, {d}, 1);
        const StridedMatrix x(5, d, 3, 2), y(5, d, 1, 3);
        RmsNorm({pool}, x.view, weight.view, 1e-5, y.view);
        std::vector<double> expected(static_cast<size_t>(d));
        for (int64_t i = 0; i < 5; ++i) {
          reference::RmsNorm(x.view.RowSpan(i), weight.view, 1e-5, expected);
          for (int64_t c = 0; c < d; ++c) {
            // The sum of d squares is off by at most d + 1 roundings, its root by half of that; the
            // scale and two products round once each.
            const double e = expected[static_cast<size_t>(c)];
            EXPECT_NEAR(y.view(i, c), e,
                        (static_cast<double>(d + 1) / 2 + 4) * kEps * std::fabs(e));
          }
        }
        RmsNorm({pool}, x.view, weight.view, 1e-5, x.view);
        EXPECT_TRUE(SameBits(x.view, y.view)) << "in place";
      }
    }
  });
}

TEST(RmsNorm, HeadsAreNormalisedOneByOne) {
  ThreadPool pool(3);
  const int64_t d = 20, heads = 7, n = 300;
  const RandomTensor weight(DType::kBF16, {d}, 1);
  const StridedMatrix x(n, heads * d, 3, 2), y(n, heads * d, 3, 2);
  RmsNormHeads({pool}, weight.view, 1e-6, x.view);
  for (int64_t h = 0; h < heads; ++h) {
    const auto head = y.view.ColRange(h * d, d);
    RmsNorm({pool}, head, weight.view, 1e-6, head);
  }
  EXPECT_TRUE(SameBits(x.view, y.view));
}

TEST(RmsNorm, NanStaysInItsRow) {
  ThreadPool pool(1);
  const RandomTensor weight(DType::kF32, {65}, 1);
  const StridedMatrix x(2, 65, 0, 2);
  x.view(1, 64) = NAN;
  RmsNorm({pool}, x.view, weight.view, 1e-5, x.view);
  for (int64_t c = 0; c < 65; ++c) {
    EXPECT_FALSE(std::isnan(x.view(0, c)));
    EXPECT_TRUE(std::isnan(x.view(1, c)));
  }
}

TEST(SwiGlu, IsWithinEightEpsilon) {
  ForEachTarget([] {
    for (int64_t d : kSizes) {
      StridedMatrix gate(40, d, 1, 1), up(40, d, 2, 2);
      for (float& g : gate.values) g *= 20.0f;
      StridedMatrix out = gate;
      const MatrixView<float> y(out.values.data(), 40, d, d + 1);
      ThreadPool one(1), three(3);
      SwiGlu({three}, up.view, y);
      for (int64_t i = 0; i < 40; ++i) {
        for (int64_t c = 0; c < d; ++c) {
          const double expected = reference::SwiGlu(gate.view(i, c), up.view(i, c));
          EXPECT_NEAR(y(i, c), expected, 16 * kEps * std::fabs(expected) + 1e-44);
        }
      }
      SwiGlu({one}, up.view, gate.view);
      EXPECT_TRUE(SameBits(y, gate.view)) << "thread count";
    }
  });
}

TEST(LogSoftmax, MatchesReference) {
  ForEachTarget([] {
    for (int64_t n : {1, 3, 17, 64, 65, 1000, 50257}) {
      const auto logits = RandomFloats(n, 1, 6.0f);
      const double expected = reference::LogSumExp(logits);
      // Terms are off by the rounding of x - max (below 64, so |x - max| roundings), 2 ulp of exp
      // and 16 additions; the logarithm turns that relative error into an absolute one. Terms far
      // below the maximum weigh exp(x - max), which leaves less than one rounding of the first
      // kind.
      EXPECT_NEAR(LogSumExp(logits), expected, 8 * kEps + 16 * kEps);
      EXPECT_NEAR(LogProb(logits, n / 2), logits[static_cast<size_t>(n / 2)] - expected, 24 * kEps);
    }
  });
}

TEST(LogSoftmax, SpecialRows) {
  ForEachTarget([] {
    const float inf = INFINITY;
    EXPECT_EQ(LogSumExp(std::vector<float>(20, -inf)), -inf);
    EXPECT_TRUE(std::isnan(LogSumExp(std::vector<float>{1.0f, NAN})));
    EXPECT_EQ(LogProb(std::vector<float>{-inf, 3.0f}, 0), -inf);
    EXPECT_EQ(ArgMax(std::vector<float>{}), -1);
    EXPECT_EQ(ArgMax(std::vector<float>{1.0f, 5.0f, NAN, NAN}), 2);
    for (int64_t n : kSizes) {
      std::vector<float> row(static_cast<size_t>(n), 1.0f);
      EXPECT_EQ(ArgMax(row), 0) << "first of ties";
      row.back() = 2.0f;
      EXPECT_EQ(ArgMax(row), n - 1);
    }
  });
}

TEST(Embedding, GathersRowsAndRejectsForeignTokens) {
  for (DType dtype : kStored) {
    const RandomTensor table(dtype, {10, 17}, 1);
    const StridedMatrix out(3, 17, 2, 2);
    GatherRows(table.view, std::vector<int32_t>{9, 0, 9}, out.view);
    for (int64_t c = 0; c < 17; ++c) {
      EXPECT_EQ(out.view(0, c), reference::At(table.view.data, dtype, 9 * 17 + c));
      EXPECT_EQ(out.view(1, c), reference::At(table.view.data, dtype, c));
      EXPECT_EQ(out.view(2, c), out.view(0, c));
    }
    for (int32_t bad : {-1, 10}) {
      EXPECT_NE(ErrorOf([&] {
                  GatherRows(table.view, std::vector<int32_t>{0, bad, 0}, out.view);
                }).find("vocabulary of 10"),
                std::string::npos);
    }
  }
}

}  // namespace
}  // namespace palu::testing
