// Scores from codes with tokens in lanes against float64: whole keys, and slow pairs as waves.
#include "ops/lane_keys.h"

#include <cmath>

#include "base/rng.h"
#include "ops/position_table.h"
#include "ops/rope.h"
#include "ops_testing.h"
#include "split_bound.h"

namespace palu::testing {
namespace {

constexpr int64_t kTokens = 64;

const RopeConfig kRopes[] = {
    {.theta = 1e4},
    {.theta = 5e5},
    {.theta = 1e6},
    {.theta = 5e5,
     .scaling = RopeScaling::kLlama3,
     .factor = 8,
     .low_freq_factor = 1,
     .high_freq_factor = 4,
     .original_max_position = 8192},
};

// One head: U, codes of a block, queries, and everything in float64.
struct Head {
  Head(const RopeConfig& rope, int64_t d, int64_t latents, int64_t rows, int64_t count)
      : head_dim(d),
        width(latents),
        tokens(count),
        frequencies(InverseFrequencies(rope, d)),
        positions(frequencies, RopeAngles::kFloat64, /*by_pairs=*/true),
        up_tensor(DType::kBF16, {d, latents}, 3),
        up(up_tensor.view, latents),
        query_values(RandomFloats(rows * d, 4)),
        queries(query_values.data(), rows, d) {
    Rng rng(5);
    packed.resize(static_cast<size_t>(kTokens * width / 2));
    for (uint8_t& code : packed) code = static_cast<uint8_t>(rng.Below(256));
    for (int64_t t = 0; t < kTokens; ++t) {
      scales.push_back(ToHalf(0.05f + 0.15f * static_cast<float>(rng.Below(1000)) / 1000));
      zeros.push_back(static_cast<uint8_t>(5 + rng.Below(5)));
    }
    codes.resize(static_cast<size_t>(kTokens * width));
    UnpackCodes({.bits = 4}, Rows(), kTokens, codes.data());
  }

  PackedRows Rows() {
    return {.codes = packed.data(), .scales = scales.data(), .zeros = zeros.data(), .width = width};
  }
  double Latent(int64_t t, int64_t r) const {
    const auto i = static_cast<size_t>(t);
    return (codes[static_cast<size_t>(t * width + r)] - zeros[i]) * double{ToFloat(scales[i])};
  }
  std::vector<double> Latents(int64_t t) const {
    std::vector<double> latents;
    for (int64_t r = 0; r < width; ++r) latents.push_back(Latent(t, r));
    return latents;
  }
  // k_f of the rounded U, before RoPE.
  double Key(int64_t t, int64_t f) const {
    double sum = 0;
    for (int64_t r = 0; r < width; ++r) sum += up.At(f, r) * Latent(t, r);
    return sum * double{up.scale(f)} + (bias.empty() ? 0 : double{bias[static_cast<size_t>(f)]});
  }
  std::complex<double> Pair(int64_t t, int64_t f) const {
    return {Key(t, f), Key(t, f + head_dim / 2)};
  }
  std::complex<double> Query(int64_t row, int64_t f) const {
    return {queries(row, f), queries(row, f + head_dim / 2)};
  }
  double Frequency(int64_t f) const { return frequencies[static_cast<size_t>(f)]; }

  int64_t head_dim, width, tokens;
  std::vector<double> frequencies;
  PositionTable positions;
  RandomTensor up_tensor;
  Int8Up up;
  std::vector<float> query_values;
  MatrixView<const float> queries;
  std::vector<uint8_t> packed, codes, zeros;
  std::vector<Half> scales;
  std::vector<float> bias;
};

// A score as method.md says, and the sum of |q_f| |k_f|.
double Score(const Head& head, int64_t row, int64_t t, int64_t position) {
  double sum = 0;
  for (int64_t f = 0; f < head.head_dim / 2; ++f) {
    sum += (std::conj(head.Query(row, f)) * head.Pair(t, f) *
            std::polar(1.0, head.Frequency(f) * static_cast<double>(position + t)))
               .real();
  }
  return sum;
}

double Energy(const Head& head, int64_t row, int64_t t) {
  double sum = 0;
  for (int64_t f = 0; f < head.head_dim / 2; ++f) {
    sum += std::abs(head.Query(row, f)) * std::abs(head.Pair(t, f));
  }
  return sum;
}

// Rounding in float32: of sums, zeros, scales, cosines and one product per pair, and of the sum
// over the pairs.
double Rounding(const Head& head, int64_t row, int64_t t) {
  return static_cast<double>(head.head_dim + 10) * 2 * kEps * Energy(head, row, t);
}

Matrix<float> Scores(Head& head, const LaneKeys& keys, int64_t position, bool split,
                     int64_t offset) {
  const int64_t half = head.head_dim / 2, rows = head.queries.rows;
  head.positions.Cover(position - offset, position + kTokens);
  std::vector<LaneTile> tiles(1);
  tiles[0].Load({.bits = 4}, head.Rows(), head.tokens);
  LaneRotations lanes;
  lanes.Load(head.positions, position, head.tokens, split ? keys.split()->split.exact_pairs : half);
  LaneScratch scratch;
  LaneWaves waves;
  if (split) keys.MakeWaves(head.queries, head.positions.Cos(position - offset), scratch, waves);
  Matrix<float> scores(rows, kTokens);
  keys.Scores(tiles, lanes, head.queries, split ? &waves : nullptr, offset, scratch, scores);
  return scores;
}

TEST(LaneKeys, WholeKeysAgreeWithFloat64) {
  for (const int64_t head_dim : {8, 32, 64, 100, 128}) {
    for (const int64_t width : {8, 40, 128}) {
      for (const int64_t tokens : {1, 5, 63, 64}) {
        for (const bool biased : {false, true}) {
          Head head({.theta = 1e4}, head_dim, width, 3, tokens);
          if (biased) head.bias = RandomFloats(head_dim, 6);
          const LaneKeys keys(head.up, head.bias, nullptr);
          for (const int64_t position : {0, 1024, 999990}) {
            const Matrix<float> scores = Scores(head, keys, position, false, 0);
            for (int64_t r = 0; r < 3; ++r) {
              for (int64_t t = 0; t < tokens; ++t) {
                ASSERT_NEAR(scores(r, t), Score(head, r, t, position), Rounding(head, r, t))
                    << head_dim << " " << width << " " << tokens << " " << position;
              }
            }
          }
        }
      }
    }
  }
}

// Zeros of U may be skipped wherever they lie.
TEST(LaneKeys, ATriangularBasisGivesTheSameScores) {
  Head head({.theta = 1e4}, 32, 72, 2, kTokens);
  RandomTensor triangular(DType::kF32, {32, 72}, 3);
  auto* rows = reinterpret_cast<float*>(triangular.bytes.data());
  for (int64_t f = 0; f < 32; ++f) {
    for (int64_t r = 0; r < 72; ++r) {
      if (f % 16 < 12 ? r > 2 * (f % 16) + 3 : r < 40) rows[f * 72 + r] = 0;
    }
    if (f % 16 >= 14) std::fill_n(rows + f * 72, 72, 0.0f);
  }
  head.up = Int8Up(triangular.view, 72);
  const LaneKeys keys(head.up, {}, nullptr);
  const Matrix<float> scores = Scores(head, keys, 64, false, 0);
  for (int64_t r = 0; r < 2; ++r) {
    for (int64_t t = 0; t < kTokens; ++t) {
      ASSERT_NEAR(scores(r, t), Score(head, r, t, 64), Rounding(head, r, t));
    }
  }
}

TEST(LaneKeys, WavesStayWithinTheStatedBound) {
  for (const RopeConfig& rope : kRopes) {
    for (const int64_t head_dim : {64, 128}) {
      Head head(rope, head_dim, 72, 2, kTokens);
      for (const int64_t block : {64, 128, 256}) {
        const LaneSplit split(SplitWithin(head.frequencies, block, 12, kSplitTolerance),
                              head.frequencies);
        const LaneKeys keys(head.up, {}, &split);
        for (const int64_t offset : {int64_t{0}, block - 64}) {
          for (const int64_t position : {int64_t{256}, int64_t{999936}}) {
            SCOPED_TRACE(::testing::Message() << rope.theta << " " << head_dim << " " << block
                                              << " " << offset << " " << position);
            const Matrix<float> scores = Scores(head, keys, position, true, offset);
            double squares = 0, predicted = 0;
            for (int64_t r = 0; r < 2; ++r) {
              const SplitBound bound(head.up, split.split, head.frequencies, head.queries.Row(r),
                                     position - offset + block / 2);
              for (int64_t t = 0; t < kTokens; ++t) {
                const double error = scores(r, t) - Score(head, r, t, position);
                const std::vector<double> latents = head.Latents(t);
                const double waves = bound.Waves(latents);
                ASSERT_LE(std::abs(error),
                          waves + bound.Rounding(latents, offset + t) + Rounding(head, r, t));
                squares += error * error;
                predicted += bound.MeanSquare(latents, offset + t) + waves * waves;
              }
            }
            // Roundings are independent and uniform, and the waves' part is counted at its most.
            EXPECT_LT(squares, 4 * predicted);
          }
        }
      }
    }
  }
}

TEST(LaneKeys, TheSplitIsChosenByCount) {
  const std::vector<double> frequencies = InverseFrequencies({.theta = 1e4}, 128);
  const SplitCost one = LaneSplitCost(1);
  const auto split = ChooseFrequencySplit(frequencies, kSplitTolerance, one);
  ASSERT_TRUE(split);
  // About half of the work for one query per KV head (docs/benchmarks.md), for a whole run only.
  const double rows = one.Rows(split->exact_pairs, split->slow_pairs(), split->terms,
                               static_cast<double>(split->block_tokens));
  EXPECT_LT(rows / one.Rows(64), 0.55);
  EXPECT_TRUE(one.Pays(*split, split->block_tokens));
  EXPECT_FALSE(one.Pays(*split, 4));
  EXPECT_FALSE(LaneSplitCost(64).Pays(*split, split->block_tokens));
}

}  // namespace
}  // namespace palu::testing
