#include "eval/perplexity.h"

#include <cmath>
#include <limits>

#include "golden.h"

namespace palu {
namespace {

using testing::ErrorOf;

class PerplexityTest : public ::testing::Test {
 protected:
  std::vector<TokenId> Some(size_t count) const {
    const auto golden = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
    return {golden.begin(), golden.begin() + static_cast<ptrdiff_t>(count)};
  }

  Model model_ = Model::Load(testing::Repo("tests/data/models/stories260k"));
  ThreadPool pool_{2};
  Scorer scorer_{model_, {.pool = pool_}};
};

TEST(CountWindows, DropsThePartialOne) {
  EXPECT_EQ(CountWindows(0, 8), 0);
  EXPECT_EQ(CountWindows(7, 8), 0);
  EXPECT_EQ(CountWindows(8, 8), 1);
  EXPECT_EQ(CountWindows(23, 8), 2);
}

// Mean over windows of the mean over seqlen - 1 positions, from logits by plain loops. float32
// logits of magnitude below 32 and their float32 softmax leave 2^-24 * 32 per position.
TEST_F(PerplexityTest, FollowsTheProtocol) {
  constexpr size_t kSeqlen = 40;
  const std::vector<TokenId> ids = Some(3 * kSeqlen + 17);
  double sum = 0;
  for (size_t w = 0; w < 3; ++w) {
    const std::span window = std::span(ids).subspan(w * kSeqlen, kSeqlen);
    std::vector<double> nll(kSeqlen);
    scorer_.ForEachLogits(window, 0, [&](int64_t index, std::span<const float> logits) {
      const auto i = static_cast<size_t>(index);
      if (i + 1 == kSeqlen) return;
      double total = 0;
      for (const float x : logits) total += std::exp(static_cast<double>(x));
      nll[i] = std::log(total) - logits[static_cast<size_t>(window[i + 1])];
    });
    double mean = 0;
    for (const double x : nll) mean += x / (kSeqlen - 1);
    sum += mean;
  }
  int64_t ticks = 0;
  const PerplexityResult result = Perplexity(scorer_, ids, kSeqlen, [&] { ++ticks; });
  EXPECT_NEAR(std::log(result.perplexity), sum / 3, 0x1p-24 * 32);
  EXPECT_EQ(result.windows, 3);
  EXPECT_EQ(result.tokens, 3 * 39);
  EXPECT_EQ(ticks, 3);
  EXPECT_GT(result.seconds, 0);
}

TEST_F(PerplexityTest, WindowsStartFresh) {
  const std::vector<TokenId> once = Some(32);
  std::vector<TokenId> twice = once;
  twice.insert(twice.end(), once.begin(), once.end());
  EXPECT_EQ(Perplexity(scorer_, once, 32).perplexity, Perplexity(scorer_, twice, 32).perplexity);
}

// The chunks of a forward pass are no windows.
TEST_F(PerplexityTest, ChunksChangeNothing) {
  const std::vector<TokenId> ids = Some(128);
  Scorer chunked(model_, {.pool = pool_},
                 {.cache_format = DType::kF32, .chunk_tokens = 48, .transformer = {}});
  Scorer whole(model_, {.pool = pool_},
               {.cache_format = DType::kF32, .chunk_tokens = 2048, .transformer = {}});
  // Five layers of about ten products, each sqrt(64) * 2^-24, on logits below 32.
  EXPECT_NEAR(std::log(Perplexity(chunked, ids, 128).perplexity),
              std::log(Perplexity(whole, ids, 128).perplexity), 5 * 10 * 8 * 0x1p-24 * 32);
}

// Decoding computes the same function; in float32 only the order of sums differs.
TEST_F(PerplexityTest, DecodingGivesTheSame) {
  const std::vector<TokenId> ids = Some(3 * 40 + 5);
  Scorer scorer(model_, {.pool = pool_}, {.cache_format = DType::kF32, .transformer = {}});
  const PerplexityResult whole = Perplexity(scorer, ids, 40);
  for (const int64_t together : {1, 2, 8}) {
    int64_t ticks = 0;
    const PerplexityResult decoded = DecodedPerplexity(scorer, ids, 40, together, [&] { ++ticks; });
    EXPECT_NEAR(std::log(decoded.perplexity), std::log(whole.perplexity),
                5 * 10 * 8 * 0x1p-24 * 32);
    EXPECT_EQ(decoded.windows, 3);
    EXPECT_EQ(decoded.tokens, 3 * 39);
    EXPECT_EQ(ticks, 3);
  }
}

TEST_F(PerplexityTest, Refusals) {
  EXPECT_EQ(ErrorOf([&] { Perplexity(scorer_, Some(31), 32); }),
            "the text has 31 tokens, BOS included: expected at least one window of 32");
  EXPECT_EQ(ErrorOf([&] { Perplexity(scorer_, Some(31), 1); }),
            "seqlen: expected 2 or more, found 1");
  EXPECT_EQ(ErrorOf([&] { scorer_.Score({}); }), "there are no tokens to score: give at least one");
}

}  // namespace
}  // namespace palu
