#include "eval/divergence.h"

#include <cmath>

#include "compressed_models.h"
#include "eval/perplexity.h"
#include "golden.h"

namespace palu {
namespace {

using testing::ErrorOf;

TEST(Quantile, InterpolatesBetweenOrderStatistics) {
  std::vector<double> values{4, 1, 3, 2};
  EXPECT_EQ(Quantile(values, 0.5), 2.5);
  EXPECT_EQ(Quantile(values, 0), 1);
  EXPECT_EQ(Quantile(values, 1), 4);
  EXPECT_DOUBLE_EQ(Quantile(values, 0.99), 3.97);
  std::vector<double> one{7};
  EXPECT_EQ(Quantile(one, 0.5), 7);
}

class DivergenceTest : public ::testing::Test {
 protected:
  std::vector<TokenId> Some(size_t count) const {
    const auto golden = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
    return {golden.begin(), golden.begin() + static_cast<ptrdiff_t>(count)};
  }
  Scorer MakeScorer(const Model& model, int64_t chunk_tokens = 2048) {
    return Scorer(model, {.pool = pool_},
                  {.cache_format = DType::kF32, .chunk_tokens = chunk_tokens, .transformer = {}});
  }

  testing::TempDir dir_;
  Model dense_ = Model::Load(testing::Repo("tests/data/models/stories260k"));
  Model compressed_ = testing::MakeCompressed(testing::Repo("tests/data/models/stories260k"),
                                              dir_ / "compressed", {.dtype = DType::kF32});
  ThreadPool pool_{2};
};

TEST_F(DivergenceTest, OfAModelFromItselfIsNothing) {
  Scorer a = MakeScorer(dense_), b = MakeScorer(dense_);
  const DivergenceResult result = Divergence(a, b, Some(70), 32);
  EXPECT_EQ(result.windows, 2);
  EXPECT_EQ(result.tokens, 62);
  EXPECT_EQ(result.kl_max, 0);
  EXPECT_EQ(result.logprob_change, 0);
  EXPECT_EQ(result.same_argmax, 1);
  EXPECT_EQ(result.dense_perplexity, result.compressed_perplexity);
}

// Against plain loops in double over logits that each model gives by itself. Chunks of 5 tokens
// change the float32 products by what perplexity_test.cc derives for a window.
TEST_F(DivergenceTest, MatchesPlainLoops) {
  constexpr size_t kSeqlen = 32;
  constexpr double kTolerance = 5 * 10 * 8 * 0x1p-24 * 32;
  const std::vector<TokenId> ids = Some(3 * kSeqlen);
  Scorer dense = MakeScorer(dense_), compressed = MakeScorer(compressed_);
  std::vector<double> kl;
  double change = 0, same = 0;
  for (size_t w = 0; w < 3; ++w) {
    const std::span window = std::span(ids).subspan(w * kSeqlen, kSeqlen);
    const auto log_softmax = [&](Scorer& scorer) {
      std::vector<std::vector<double>> rows(kSeqlen);
      scorer.ForEachLogits(window, 0, [&](int64_t i, std::span<const float> logits) {
        double sum = 0;
        for (const float x : logits) sum += std::exp(static_cast<double>(x));
        for (const float x : logits) rows[static_cast<size_t>(i)].push_back(x - std::log(sum));
      });
      return rows;
    };
    const auto p = log_softmax(dense), q = log_softmax(compressed);
    for (size_t i = 0; i + 1 < kSeqlen; ++i) {
      const auto next = static_cast<size_t>(window[i + 1]);
      double sum = 0;
      for (size_t v = 0; v < p[i].size(); ++v) sum += std::exp(p[i][v]) * (p[i][v] - q[i][v]);
      kl.push_back(sum);
      change += (q[i][next] - p[i][next]) / (3 * (kSeqlen - 1));
      same += std::max_element(p[i].begin(), p[i].end()) - p[i].begin() ==
              std::max_element(q[i].begin(), q[i].end()) - q[i].begin();
    }
  }
  Scorer chunked_dense = MakeScorer(dense_, 5), chunked = MakeScorer(compressed_, 5);
  int64_t ticks = 0;
  const DivergenceResult whole = Divergence(dense, compressed, ids, kSeqlen, 0, [&] { ++ticks; });
  EXPECT_EQ(ticks, 3);
  for (const DivergenceResult& result : {whole, Divergence(chunked_dense, chunked, ids, kSeqlen)}) {
    double mean = 0;
    for (const double x : kl) mean += x / static_cast<double>(kl.size());
    EXPECT_NEAR(result.kl_mean, mean, kTolerance);
    EXPECT_NEAR(result.kl_median, Quantile(kl, 0.5), kTolerance);
    EXPECT_NEAR(result.kl_p99, Quantile(kl, 0.99), kTolerance);
    EXPECT_NEAR(result.kl_max, Quantile(kl, 1), kTolerance);
    EXPECT_NEAR(result.logprob_change, change, kTolerance);
    EXPECT_NEAR(std::log(result.dense_perplexity),
                std::log(Perplexity(dense, ids, kSeqlen).perplexity), kTolerance);
    EXPECT_NEAR(std::log(result.compressed_perplexity),
                std::log(Perplexity(compressed, ids, kSeqlen).perplexity), kTolerance);
  }
  EXPECT_DOUBLE_EQ(whole.same_argmax, same / (3 * (kSeqlen - 1)));
  EXPECT_GT(whole.kl_mean, 0.01);  // half the cache of a tiny model is not free
}

TEST_F(DivergenceTest, WindowsCanBeLimited) {
  Scorer dense = MakeScorer(dense_), compressed = MakeScorer(compressed_);
  const std::vector<TokenId> ids = Some(100);
  const DivergenceResult two = Divergence(dense, compressed, ids, 32, 2);
  EXPECT_EQ(two.windows, 2);
  EXPECT_EQ(two.kl_mean, Divergence(dense, compressed, std::span(ids).first(64), 32).kl_mean);
  EXPECT_EQ(Divergence(dense, compressed, ids, 32, 9).windows, 3);
}

TEST_F(DivergenceTest, Refusals) {
  Scorer dense = MakeScorer(dense_), compressed = MakeScorer(compressed_);
  const Model other = Model::Load(testing::Repo("models/wiki-7m-mha"));
  Scorer larger = MakeScorer(other);
  EXPECT_EQ(ErrorOf([&] { Divergence(dense, larger, Some(32), 32); }),
            "expected models of one vocabulary, found 512 and 4096 tokens");
  EXPECT_EQ(ErrorOf([&] { Divergence(dense, compressed, Some(31), 32); }),
            "the text has 31 tokens, BOS included: expected at least one window of 32");
}

// Differences of mean 0.02: of standard deviation 0.01 over 4 windows twice the standard error is
// 2 * 0.01 / sqrt(3) = 0.0115; of 0.03 it is 0.035.
TEST(Divergence, SurelyLessWantsTwoStandardErrors) {
  const std::vector<double> b{0.5, 0.6, 0.7, 0.8};
  const std::vector<double> near{0.47, 0.59, 0.67, 0.79}, spread{0.45, 0.61, 0.65, 0.81};
  EXPECT_TRUE(SurelyLess(near, b));
  EXPECT_FALSE(SurelyLess(spread, b));
  EXPECT_FALSE(SurelyLess(b, near));
  EXPECT_FALSE(SurelyLess(b, b));
  EXPECT_TRUE(SurelyLess(std::vector{0.5}, std::vector{0.6}));
}

}  // namespace
}  // namespace palu
