// The split against waves evaluated directly in float64, and the counts of docs/kernels.md.
#include "ops/frequency_split.h"

#include <cmath>
#include <limits>

#include "ops/rope.h"
#include "testing.h"

namespace palu::testing {
namespace {

constexpr int64_t kHeadDim = 128;

// Rounding of a sum of `terms` products of numbers below sqrt(T), and of an angle below T radians.
double Rounding(const FrequencySplit& split) {
  return std::numeric_limits<double>::epsilon() * static_cast<double>(split.block_tokens) *
         static_cast<double>(4 + split.terms);
}

// e^{i theta tau} - sum_j c_j phi_j(tau) for one slow pair and offset.
std::complex<double> Error(const FrequencySplit& split, double frequency, int64_t pair,
                           int64_t token) {
  const int64_t tau = token - split.block_tokens / 2;
  std::complex<double> rest = std::polar(1.0, frequency * static_cast<double>(tau));
  for (int64_t j = 0; j < split.terms; ++j) {
    rest -= split.Coefficients(j)[pair] * split.Wave(j)[token];
  }
  return rest;
}

// Checks the stated errors against every wave at every offset.
void ExpectErrors(const FrequencySplit& split, std::span<const double> frequencies) {
  ASSERT_EQ(split.slow_pairs(), std::ssize(frequencies) - split.exact_pairs);
  ASSERT_EQ(std::ssize(split.basis), split.terms * split.block_tokens);
  double max = 0, squares = 0;
  for (int64_t f = 0; f < split.slow_pairs(); ++f) {
    const double frequency = frequencies[static_cast<size_t>(split.exact_pairs + f)];
    for (int64_t t = 0; t < split.block_tokens; ++t) {
      const double error = std::abs(Error(split, frequency, f, t));
      max = std::max(max, error);
      squares += error * error;
    }
  }
  EXPECT_NEAR(split.max_error, max, Rounding(split));
  EXPECT_NEAR(split.rms_error,
              std::sqrt(squares / static_cast<double>(split.slow_pairs() * split.block_tokens)),
              Rounding(split));
}

const RopeConfig kRopes[] = {
    {.theta = 1e4},
    {.theta = 5e5},
    {.theta = 1e6},
    {.theta = 1e4, .scaling = RopeScaling::kLinear, .factor = 4},
    {.theta = 5e5,
     .scaling = RopeScaling::kLlama3,
     .factor = 8,
     .low_freq_factor = 1,
     .high_freq_factor = 4,
     .original_max_position = 8192},
};

TEST(FrequencySplit, StatesItsErrorsForEveryScalingAndBlock) {
  for (const RopeConfig& rope : kRopes) {
    const std::vector<double> frequencies = InverseFrequencies(rope, kHeadDim);
    for (const int64_t tokens : {64, 128, 256}) {
      for (const int64_t exact : {0, 16, 28, 60}) {
        SCOPED_TRACE(::testing::Message() << rope.theta << " " << tokens << " " << exact);
        const FrequencySplit split = SplitWithin(frequencies, tokens, exact, kSplitTolerance);
        EXPECT_LE(split.max_error, kSplitTolerance);
        EXPECT_LE(split.rms_error, split.max_error);
        ExpectErrors(split, frequencies);
        if (split.terms > 1) {
          const FrequencySplit fewer =
              MakeFrequencySplit(frequencies, tokens, exact, split.terms - 1);
          EXPECT_GT(fewer.max_error, kSplitTolerance);
          ExpectErrors(fewer, frequencies);
        }
      }
    }
  }
}

TEST(FrequencySplit, WavesAreOrthogonalWithRmsOne) {
  const FrequencySplit split =
      MakeFrequencySplit(InverseFrequencies({.theta = 1e4}, kHeadDim), 128, 16, 10);
  for (int64_t a = 0; a < split.terms; ++a) {
    for (int64_t b = 0; b <= a; ++b) {
      double sum = 0;
      for (int64_t t = 0; t < 128; ++t) sum += split.Wave(a)[t] * split.Wave(b)[t];
      EXPECT_NEAR(sum / 128, a == b ? 1.0 : 0.0, Rounding(split)) << a << " " << b;
    }
  }
  for (const std::complex<double>& c : split.coefficients) EXPECT_LE(std::abs(c), 1 + 1e-12);
}

TEST(FrequencySplit, AllWavesTogetherAreExact) {
  const std::vector<double> frequencies = InverseFrequencies({.theta = 1e4}, 16);
  for (const int64_t tokens : {4, 64}) {
    const int64_t most = MostTerms(6, tokens);
    EXPECT_EQ(most, tokens == 4 ? 4 : 12);
    const FrequencySplit split = MakeFrequencySplit(frequencies, tokens, 2, most);
    EXPECT_LE(split.max_error, Rounding(split));
    ExpectErrors(split, frequencies);
  }
}

// The table of terms for a sup error of 1e-3, heads of 128; one term to either side is allowed,
// because the table's dictionary sampled offsets of its own.
TEST(FrequencySplit, NeedsTheTermsThatWerePlannedWith) {
  struct Row {
    double theta;
    int64_t tokens;
    std::vector<int64_t> terms;  // for 12, 16, 20, ... exact pairs
  };
  const Row rows[] = {
      {1e4, 64, {9, 7, 6, 5, 4, 3}},     {1e4, 128, {13, 10, 8, 6, 5, 4}},
      {1e4, 256, {20, 14, 11, 8, 6, 5}}, {5e5, 64, {7, 5, 4, 3, 3}},
      {5e5, 128, {9, 6, 5, 4, 3}},       {5e5, 256, {13, 9, 6, 5, 4}},
  };
  for (const Row& row : rows) {
    const std::vector<double> frequencies = InverseFrequencies({.theta = row.theta}, kHeadDim);
    for (size_t i = 0; i < row.terms.size(); ++i) {
      const int64_t exact = 12 + 4 * static_cast<int64_t>(i);
      EXPECT_NEAR(static_cast<double>(SplitWithin(frequencies, row.tokens, exact, 1e-3).terms),
                  static_cast<double>(row.terms[i]), 1)
          << row.theta << " " << row.tokens << " " << exact;
    }
  }
}

// An isotropic key and query: the score's rms error stays below that of a key rounded to bfloat16,
// 2^-7 / sqrt(12) / sqrt(7/3) of the score.
TEST(FrequencySplit, DefaultToleranceIsBelowTheRoundingOfKeys) {
  const double bfloat16 = std::ldexp(1, -7) / std::sqrt(12) / std::sqrt(7.0 / 3);
  EXPECT_LT(kSplitTolerance, bfloat16);
  for (const RopeConfig& rope : kRopes) {
    const FrequencySplit split =
        SplitWithin(InverseFrequencies(rope, kHeadDim), 256, 16, kSplitTolerance);
    EXPECT_LT(split.rms_error * std::sqrt(48.0 / 64), bfloat16 / 2) << rope.theta;
  }
}

TEST(FrequencySplit, FewestExactPairsForAFixedNumberOfTerms) {
  const std::vector<double> frequencies = InverseFrequencies({.theta = 1e4}, kHeadDim);
  const auto split = FewestExactPairs(frequencies, 256, 8, kSplitTolerance);
  ASSERT_TRUE(split);
  EXPECT_EQ(split->exact_pairs, 24);
  EXPECT_EQ(split->terms, 8);
  EXPECT_GT(MakeFrequencySplit(frequencies, 256, 20, 8).max_error, kSplitTolerance);
  // One wave serves one slow pair that all but stands still, and never one that turns.
  EXPECT_EQ(FewestExactPairs(std::vector<double>{1, 1e-7}, 64, 1, kSplitTolerance, 1)->exact_pairs,
            1);
  EXPECT_FALSE(FewestExactPairs(std::vector<double>{1, 0.5}, 64, 1, kSplitTolerance, 1));
}

TEST(FrequencySplit, CountsRowsPerKey) {
  const SplitCost cost{.queries = 2, .row_multiple = 16, .making = 4};
  EXPECT_EQ(cost.Rows(40), 80);
  EXPECT_EQ(cost.Rows(41), 96);
  // 2 * 12 + 2 * 5 = 34 rows, 48 of which are computed; 2 * 5 * 2 * 20 products, each for four.
  EXPECT_EQ(cost.Rows(12, 20, 5, 100), 48 + 16);
}

TEST(FrequencySplit, IsChosenByCount) {
  const std::vector<double> slow = InverseFrequencies({.theta = 1e4}, kHeadDim);
  const SplitCost one{.queries = 1, .row_multiple = 16, .making = 4};
  const auto chosen = ChooseFrequencySplit(slow, kSplitTolerance, one);
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->block_tokens, 256);
  EXPECT_EQ(chosen->exact_pairs, 16);
  EXPECT_NEAR(static_cast<double>(chosen->terms), 14, 1);
  EXPECT_TRUE(one.Pays(*chosen, 256));
  EXPECT_FALSE(one.Pays(*chosen, 8));  // W costs more than eight keys
  // Many queries share a rebuilt key, and not W.
  EXPECT_FALSE(ChooseFrequencySplit(slow, kSplitTolerance,
                                    {.queries = 64, .row_multiple = 16, .making = 4}));
}

TEST(FrequencySplit, RefusesWhatItCannotDo) {
  const std::vector<double> frequencies = InverseFrequencies({.theta = 1e4}, 16);
  EXPECT_EQ(ErrorOf([&] { MakeFrequencySplit(frequencies, 63, 2, 1); }),
            "frequency split: expected an even number of tokens in a block, found 63");
  EXPECT_EQ(ErrorOf([&] { MakeFrequencySplit(frequencies, 64, 8, 1); }),
            "frequency split: expected 0 to 7 exact pairs of 8, found 8");
  EXPECT_EQ(ErrorOf([&] { MakeFrequencySplit(frequencies, 64, 6, 5); }),
            "frequency split: expected 1 to 4 terms for 2 slow pairs in blocks of 64 tokens, "
            "found 5");
  EXPECT_EQ(ErrorOf([&] { SplitWithin(frequencies, 64, 6, 0); }),
            "frequency split: expected a tolerance from 1e-09 to below 1, found 0");
}

}  // namespace
}  // namespace palu::testing
