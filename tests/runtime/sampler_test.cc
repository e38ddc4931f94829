#include "runtime/sampler.h"

#include <cmath>
#include <map>

#include "testing.h"

namespace palu {
namespace {

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.3f), std::log(0.2f)};

std::vector<TokenId> Kept(SamplingParams params) {
  params.temperature = 1;
  std::vector<TokenId> ids;
  double sum = 0;
  for (const auto& c : Sampler::Candidates(kLogits, params)) {
    ids.push_back(c.id);
    sum += c.probability;
  }
  EXPECT_NEAR(sum, 1, 1e-12);
  return ids;
}

TEST(Sampler, GreedyTakesTheFirstMaximum) {
  Sampler sampler({});
  EXPECT_EQ(sampler.Sample(kLogits), 1);
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 3, 3, 2}), 1);
}

TEST(Sampler, FiltersKeepTheLikeliest) {
  EXPECT_EQ(Kept({}), (std::vector<TokenId>{1, 2, 3, 0}));
  EXPECT_EQ(Kept({.top_k = 2}), (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(Kept({.top_k = 9}), (std::vector<TokenId>{1, 2, 3, 0}));
  EXPECT_EQ(Kept({.top_p = 0.35}), (std::vector<TokenId>{1}));
  EXPECT_EQ(Kept({.top_p = 0.6}), (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(Kept({.min_p = 0.6}), (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(Kept({.min_p = 1}), (std::vector<TokenId>{1}));
}

// The count of a token of probability p in n draws has variance n p (1 - p); six deviations.
TEST(Sampler, DrawsFollowTheProbabilities) {
  Sampler sampler({.temperature = 1, .seed = 5});
  const int n = 40000;
  std::map<TokenId, int> counts;
  for (int i = 0; i < n; ++i) ++counts[sampler.Sample(kLogits)];
  for (TokenId id = 0; id < 4; ++id) {
    const double p = std::exp(kLogits[static_cast<size_t>(id)]);
    EXPECT_NEAR(counts[id], n * p, 6 * std::sqrt(n * p * (1 - p)));
  }
}

TEST(Sampler, TheSeedDecides) {
  Sampler a({.temperature = 1, .seed = 7}), b({.temperature = 1, .seed = 7}),
      c({.temperature = 1, .seed = 8});
  std::vector<TokenId> from_a, from_b, from_c;
  for (int i = 0; i < 100; ++i) {
    from_a.push_back(a.Sample(kLogits));
    from_b.push_back(b.Sample(kLogits));
    from_c.push_back(c.Sample(kLogits));
  }
  EXPECT_EQ(from_a, from_b);
  EXPECT_NE(from_a, from_c);
}

TEST(Sampler, LowTemperatureApproachesGreedy) {
  Sampler sampler({.temperature = 0.01});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(sampler.Sample(kLogits), 1);
}

TEST(Sampler, RefusesParametersOutOfRange) {
  EXPECT_EQ(testing::ErrorOf([] { Validate({.temperature = -1}); }),
            "temperature: expected a number of 0 or more, found -1");
  EXPECT_EQ(testing::ErrorOf([] { Validate({.top_p = 0}); }),
            "top-p: expected a number in (0, 1], found 0");
  EXPECT_EQ(testing::ErrorOf([] { Validate({.min_p = 2}); }),
            "min-p: expected a number in [0, 1], found 2");
  EXPECT_EQ(testing::ErrorOf([] { Validate({.top_k = -3}); }),
            "top-k: expected 0 (all tokens) or more, found -3");
}

}  // namespace
}  // namespace palu
