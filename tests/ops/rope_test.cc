#include "ops/rope.h"

#include <cmath>
#include <numbers>

#include "ops/position_table.h"
#include "ops/reference/reference.h"
#include "ops_testing.h"

namespace palu::testing {
namespace {

const std::vector<int64_t> kPositions = {0, 1, 7, 4095, 131071, int64_t{1} << 31};

TEST(Rope, RotatesLikeTheReferenceAtAllPositions) {
  ThreadPool pool(2);
  ForEachTarget([&] {
    for (int64_t d : {2, 6, 64, 80, 128}) {
      const int64_t n = static_cast<int64_t>(kPositions.size()), heads = 3;
      const std::vector<double> frequencies = InverseFrequencies({.theta = 500000.0}, d);
      Matrix<float> cos(n, d / 2), sin(n, d / 2);
      FillCosSin(kPositions, frequencies, cos, sin);
      const StridedMatrix before(n, heads * d, 4, 1);
      StridedMatrix x(n, heads * d, 4, 1);
      ApplyRopeRows({pool}, heads, cos, sin, x.view);
      std::vector<double> expected(static_cast<size_t>(d));
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t h = 0; h < heads; ++h) {
          const std::span<const float> head(before.view.Row(i) + h * d, static_cast<size_t>(d));
          reference::Rope(head, static_cast<double>(kPositions[static_cast<size_t>(i)]),
                          frequencies, expected);
          for (int64_t c = 0; c < d; ++c) {
            const double norm = std::fabs(head[static_cast<size_t>(c)]) +
                                std::fabs(head[static_cast<size_t>((c + d / 2) % d)]);
            // cos and sin rounded, two products, one sum.
            EXPECT_NEAR(x.view(i, h * d + c), expected[static_cast<size_t>(c)], 3 * kEps * norm);
          }
        }
      }
      ApplyRopeRows({pool}, heads, cos, sin, x.view, Rotation::kInverse);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t c = 0; c < heads * d; ++c) {
          EXPECT_NEAR(x.view(i, c), before.view(i, c), 12 * kEps * 10);
        }
      }
    }
  });
}

TEST(PositionTable, RotatesConsecutivePositionsLikeFillCosSin) {
  const std::vector<double> frequencies = InverseFrequencies({.theta = 1e4}, 64);
  PositionTable table(frequencies, RopeAngles::kFloat64);
  const int64_t first = 1020, count = 10;  // over a page boundary
  table.Cover(first, first + count);
  EXPECT_EQ(table.bytes(), 2 * 1024 * 64 * 4);
  const StridedMatrix before(count, 64, 0, 3);
  StridedMatrix x(count, 64, 0, 3);
  table.Rotate(first, x.view);
  for (int64_t t = 0; t < count; ++t) {
    std::vector<double> expected(64);
    reference::Rope(before.view.RowSpan(t), static_cast<double>(first + t), frequencies, expected);
    for (int64_t c = 0; c < 64; ++c) {
      const double norm = std::fabs(before.view(t, c)) + std::fabs(before.view(t, (c + 32) % 64));
      EXPECT_NEAR(x.view(t, c), expected[static_cast<size_t>(c)], 3 * kEps * norm);
    }
  }
}

// The float32 product is what the Python implementations compute; it departs from the exact angle
// by at most the roundings of frequency and product.
TEST(PositionTable, Float32AnglesAreTheRoundedProduct) {
  const std::vector<double> frequencies = InverseFrequencies({.theta = 1e6}, 32);
  PositionTable rounded(frequencies, RopeAngles::kFloat32);
  rounded.Cover(5000, 5001);
  for (size_t f = 0; f < frequencies.size(); ++f) {
    const float angle = 5000.0f * static_cast<float>(frequencies[f]);
    EXPECT_EQ(rounded.Cos(5000)[f], static_cast<float>(std::cos(static_cast<double>(angle))));
    EXPECT_NEAR(angle, 5000 * frequencies[f], 5000 * frequencies[f] * 0x1p-23);
  }
}

TEST(Rope, Llama3KeepsShortAndStretchesLongWavelengths) {
  const RopeConfig plain{.theta = 500000.0};
  const RopeConfig scaled{.theta = 500000.0,
                          .scaling = RopeScaling::kLlama3,
                          .factor = 8.0,
                          .low_freq_factor = 1.0,
                          .high_freq_factor = 4.0,
                          .original_max_position = 8192};
  const auto f = InverseFrequencies(plain, 128), g = InverseFrequencies(scaled, 128);
  int kept = 0, stretched = 0, blended = 0;
  for (size_t i = 0; i < f.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / f[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_EQ(g[i], f[i]);
      ++kept;
    } else if (wavelength > 8192.0) {
      EXPECT_EQ(g[i], f[i] / 8);
      ++stretched;
    } else {
      EXPECT_LT(g[i], f[i]);
      EXPECT_GT(g[i], f[i] / 8);
      ++blended;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(blended, 0);
  EXPECT_GT(stretched, 0);
  // theta^(-2i/d), and linear scaling, by hand.
  EXPECT_DOUBLE_EQ(InverseFrequencies({.theta = 10000.0}, 4)[1], 0.01);
  EXPECT_DOUBLE_EQ(
      InverseFrequencies({.theta = 10000.0, .scaling = RopeScaling::kLinear, .factor = 4}, 4)[1],
      0.0025);
}

}  // namespace
}  // namespace palu::testing
