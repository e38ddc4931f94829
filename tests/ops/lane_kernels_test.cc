// The kernels with tokens in lanes: every instruction set gives the bits of the plain loops, and
// weighted sums of values agree with float64.
#include "ops/cpu/lane_kernels.h"

#include <cmath>

#include "base/rng.h"
#include "ops/cpu/lane_values.h"
#include "ops_testing.h"

namespace palu::testing {
namespace {

using cpu::kRowGroup;
using cpu::kTileLanes;
using cpu::LaneKernels;

constexpr int64_t kGuard = 7;  // elements past the end that must stay

template <class T>
struct Aligned {
  explicit Aligned(int64_t n) : buffer(n) { std::fill_n(buffer.data(), n, T{99}); }
  T* data() const { return buffer.data(); }
  std::vector<T> values() const { return {data(), data() + buffer.size()}; }
  AlignedBuffer<T> buffer;
};

template <class T>
void FillRandom(Rng& rng, T* data, int64_t n, int64_t low, uint64_t count) {
  for (int64_t i = 0; i < n; ++i) {
    data[i] = static_cast<T>(low + static_cast<int64_t>(rng.Below(count)));
  }
}

class EveryLaneKernel : public ::testing::Test {
 protected:
  const LaneKernels& plain = cpu::PortableLaneKernels();
  const LaneKernels& best = cpu::BestLaneKernels() != nullptr ? *cpu::BestLaneKernels() : plain;
  Rng rng{11};
};

TEST_F(EveryLaneKernel, Transposes) {
  for (const int64_t dwords : {1, 2, 10, 16, 17, 33}) {
    std::vector<std::vector<int32_t>> rows;
    std::vector<const void*> pointers;
    for (int64_t t = 0; t < kTileLanes; ++t) {  // ends exactly at the last element
      rows.emplace_back(static_cast<size_t>(dwords));
      FillRandom(rng, rows.back().data(), dwords, -1000, 2000);
    }
    for (const auto& row : rows) pointers.push_back(row.data());
    for (const LaneKernels* kernels : {&plain, &best}) {
      const Aligned<int32_t> lanes(dwords * kTileLanes);
      kernels->transpose(pointers.data(), dwords, lanes.data());
      for (int64_t d = 0; d < dwords; ++d) {
        for (int64_t t = 0; t < kTileLanes; ++t) {
          ASSERT_EQ(lanes.data()[d * kTileLanes + t],
                    rows[static_cast<size_t>(t)][static_cast<size_t>(d)]);
        }
      }
    }
  }
}

TEST_F(EveryLaneKernel, TransposesQuadsOfTokens) {
  std::vector<std::vector<uint8_t>> rows(kTileLanes, std::vector<uint8_t>(kTileLanes));
  std::vector<const uint8_t*> pointers;
  for (auto& row : rows) {
    FillRandom(rng, row.data(), kTileLanes, 0, 256);
    pointers.push_back(row.data());
  }
  for (const LaneKernels* kernels : {&plain, &best}) {
    const Aligned<uint8_t> lanes(kTileLanes * kTileLanes);
    kernels->transpose_quads(pointers.data(), lanes.data());
    for (int64_t t = 0; t < kTileLanes; ++t) {
      for (int64_t i = 0; i < kTileLanes; ++i) {
        ASSERT_EQ(lanes.data()[(t / 4 * kTileLanes + i) * 4 + t % 4],
                  rows[static_cast<size_t>(t)][static_cast<size_t>(i)]);
      }
    }
  }
}

TEST_F(EveryLaneKernel, ProductsAreExact) {
  for (const int64_t quads : {1, 2, 16, 33}) {
    const Aligned<uint8_t> lanes(quads * kTileLanes * 4);
    const Aligned<int8_t> rows(quads * kRowGroup * 4);
    FillRandom(rng, lanes.data(), lanes.buffer.size(), 0, 256);
    FillRandom(rng, rows.data(), rows.buffer.size(), -128, 256);
    const Aligned<int32_t> found(kRowGroup * kTileLanes);
    best.products(lanes.data(), rows.data(), quads, found.data());
    for (int64_t r = 0; r < kRowGroup; ++r) {
      for (int64_t t = 0; t < kTileLanes; ++t) {
        int64_t sum = 0;
        for (int64_t i = 0; i < 4 * quads; ++i) {
          sum += lanes.data()[(i / 4 * kTileLanes + t) * 4 + i % 4] *
                 rows.data()[(i / 4 * kRowGroup + r) * 4 + i % 4];
        }
        ASSERT_EQ(found.data()[r * kTileLanes + t], sum);
      }
    }
  }
}

// Planes hold a number to half a step of its row's largest over 32639, and every kernel the same.
TEST_F(EveryLaneKernel, SplitsIntoPlanes) {
  for (const int64_t n : {4, 12, 16, 28, 64, 100}) {
    for (const float size : {0.0f, 1e-30f, 1.0f, 1e30f}) {
      const std::vector<float> x = RandomFloats(n, 3, size);
      std::vector<int32_t> weights(static_cast<size_t>(n));
      FillRandom(rng, weights.data(), n, 0, 16);
      Aligned<int8_t> high(4 * n + kGuard), low(4 * n + kGuard), expected_high(4 * n + kGuard),
          expected_low(4 * n + kGuard);
      const cpu::PlaneSums sums =
          best.split_planes(x.data(), weights.data(), n, high.data(), low.data());
      const cpu::PlaneSums expected = plain.split_planes(x.data(), weights.data(), n,
                                                         expected_high.data(), expected_low.data());
      EXPECT_EQ(high.values(), expected_high.values());
      EXPECT_EQ(low.values(), expected_low.values());
      EXPECT_EQ(sums.scale, expected.scale);
      EXPECT_EQ(sums.high, expected.high);
      EXPECT_EQ(sums.low, expected.low);
      int64_t top = 0, rest = 0;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = i / 4 * 16 + i % 4;
        const double joined = 256.0 * high.data()[at] + low.data()[at];
        // Half a step, and the rounding of x over the scale, up to 32639 steps.
        ASSERT_NEAR(joined * double{sums.scale}, x[static_cast<size_t>(i)],
                    (0.5 + 3 * 32639 * kEps) * double{sums.scale});
        top += high.data()[at] * weights[static_cast<size_t>(i)];
        rest += low.data()[at] * weights[static_cast<size_t>(i)];
      }
      EXPECT_EQ(sums.high, top);
      EXPECT_EQ(sums.low, rest);
    }
  }
}

// What is too small for a scale becomes nothing, and a NaN reaches the sums.
TEST_F(EveryLaneKernel, TinyRowsVanishAndNansStay) {
  const std::vector<int32_t> weights(20, 15);
  for (const LaneKernels* kernels : {&plain, &best}) {
    Aligned<int8_t> high(80), low(80);
    std::vector<float> x(20, 1e-36f);
    EXPECT_LT(kernels->split_planes(x.data(), weights.data(), 20, high.data(), low.data()).scale,
              std::numeric_limits<float>::min());
    for (int64_t i = 0; i < 20; ++i) {
      ASSERT_EQ(high.data()[i / 4 * 16 + i % 4], 0);
      ASSERT_EQ(low.data()[i / 4 * 16 + i % 4], 0);
    }
    for (const int64_t at : {0, 7, 19}) {
      x.assign(20, 1.0f);
      x[static_cast<size_t>(at)] = std::numeric_limits<float>::quiet_NaN();
      const cpu::PlaneSums sums =
          kernels->split_planes(x.data(), weights.data(), 20, high.data(), low.data());
      EXPECT_TRUE(std::isnan(sums.scale)) << at;
      const Aligned<int32_t> zeros(kTileLanes);
      const Aligned<float> out(kTileLanes);
      kernels->join_planes(zeros.data(), zeros.data(), sums, true, out.data());
      for (int64_t i = 0; i < kTileLanes; ++i) ASSERT_TRUE(std::isnan(out.data()[i]));
    }
  }
}

TEST_F(EveryLaneKernel, RoundsRows) {
  for (const int64_t n : {4, 16, 40, 200}) {
    const std::vector<float> x = RandomFloats(n, 5, 0.3f);
    Aligned<int8_t> row(4 * n), expected(4 * n);
    int32_t sum = 0, expected_sum = 0, total = 0;
    const float scale = best.round_row(x.data(), n, row.data(), &sum);
    EXPECT_EQ(scale, plain.round_row(x.data(), n, expected.data(), &expected_sum));
    EXPECT_EQ(row.values(), expected.values());
    for (int64_t i = 0; i < n; ++i) {
      const int8_t rounded = row.data()[i / 4 * 16 + i % 4];
      ASSERT_NEAR(rounded * double{scale}, x[static_cast<size_t>(i)],
                  (0.5 + 3 * 127 * kEps) * double{scale});
      total += rounded;
    }
    EXPECT_EQ(sum, total);
    EXPECT_EQ(expected_sum, total);
  }
}

// Weights keep 15 bits of a row's largest: with the reading of codes exact, a sum moves by at most
// that over all tokens, and by rounding of one product per block.
TEST(LaneValues, AgreeWithFloat64) {
  for (const int64_t width : {8, 64, 72, 128, 200}) {
    for (const int64_t tokens : {1, 3, 64}) {
      for (const int64_t rows : {1, 2, 5}) {
        Rng rng(7);
        CodeTile tile;
        tile.Resize({.bits = 4}, width, tokens);
        FillRandom(rng, tile.codes.data(), tile.codes.size(), 0, 16);
        rng.FillUniform(tile.scales, 0.01f, 2.0f);
        for (float& zero : tile.zeros) zero = static_cast<float>(rng.Below(16));
        Matrix<float> p(rows, tokens), acc(rows, width + kGuard);
        rng.FillUniform({p.data(), static_cast<size_t>(p.size())}, 0.0f, 1.0f);
        acc.Fill(0.5f);
        LaneScratch scratch;
        const bool has_kernel = cpu::BestLaneKernels() != nullptr;
        ASSERT_EQ(cpu::AccumulateCodesInLanes(p, tile, scratch, acc.View().ColRange(0, width)),
                  has_kernel);
        if (!has_kernel) continue;
        for (int64_t g = 0; g < rows; ++g) {
          double largest = 0;
          for (int64_t t = 0; t < tokens; ++t) {
            const double scale = double{tile.scales[static_cast<size_t>(t)]};
            largest = std::max(largest, p(g, t) * scale);
          }
          for (int64_t r = 0; r < width; ++r) {
            double sum = 0.5, magnitude = 0.5, bound = 0;
            for (int64_t t = 0; t < tokens; ++t) {
              const auto i = static_cast<size_t>(t);
              const double code = tile.codes.data()[t * width + r] - double{tile.zeros[i]};
              sum += double{p(g, t)} * double{tile.scales[i]} * code;
              magnitude += double{p(g, t)} * double{tile.scales[i]} * std::abs(code);
              bound += largest / 65278 * std::abs(code);
            }
            ASSERT_NEAR(acc(g, r), sum, bound + 6 * kEps * magnitude) << width << " " << tokens;
          }
          for (int64_t i = 0; i < kGuard; ++i) ASSERT_EQ(acc(g, width + i), 0.5f);
        }
      }
    }
  }
}

}  // namespace
}  // namespace palu::testing
