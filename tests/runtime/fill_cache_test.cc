#include "runtime/fill_cache.h"

#include <cmath>
#include <cstring>

#include "ops/convert.h"
#include "testing.h"

namespace palu {
namespace {

ModelConfig Mixed() {
  ModelConfig config;
  config.num_layers = 2;
  config.num_heads = config.num_kv_heads = 4;
  config.head_dim = 16;
  config.hidden_size = 64;
  config.compression = KvCompression{};
  config.compression->group_size = 2;
  config.compression->layers = {{{{8, 16}}, {}}, {{}, {{24, 8}}}};
  return config;
}

std::vector<float> Row(const CacheLayout& layout, const CachedSequence& sequence, int64_t token) {
  std::vector<float> all;
  for (int64_t l = 0; l < layout.num_layers(); ++l) {
    for (const CachedPages* pages : {&layout.layer(l).k, &layout.layer(l).v}) {
      for (const CachedPages::Page& page : pages->pages) {
        const auto at = all.size();
        all.resize(at + static_cast<size_t>(page.width));
        ToFloat(sequence.table().Row(*pages, page, token), pages->dtype, page.width, &all[at]);
      }
    }
  }
  return all;
}

TEST(FillCache, WritesEveryValueOfEveryPage) {
  KvCache cache(Mixed(), DType::kF16);
  ThreadPool pool(3);
  CachedSequence sequence = cache.NewSequence();
  sequence.Reserve(200);
  for (int64_t b = 0; b < BlocksFor(200); ++b) {  // NaN wherever the filling forgets
    std::memset(sequence.table().blocks[b], 0xFF,
                static_cast<size_t>(cache.layout().block_bytes()));
  }
  FillRandom(cache.layout(), sequence, 200, 1, pool);
  EXPECT_EQ(sequence.length(), 200);
  double sum = 0;
  int64_t count = 0;
  for (int64_t t = 0; t < 200; ++t) {
    for (const float x : Row(cache.layout(), sequence, t)) {
      ASSERT_TRUE(std::isfinite(x)) << t;
      ASSERT_LE(std::abs(x), 0.5f);
      sum += std::abs(x);
      ++count;
    }
  }
  EXPECT_EQ(count, 200 * (24 + 64 + 64 + 32));
  // |x| is uniform in [0, 0.5]: five standard errors around its mean.
  EXPECT_NEAR(sum / static_cast<double>(count), 0.25,
              5 * 0.5 / std::sqrt(12.0 * static_cast<double>(count)));
  EXPECT_NE(Row(cache.layout(), sequence, 3), Row(cache.layout(), sequence, 67));
}

TEST(FillCache, DoesNotDependOnThreadsAndKeepsWhatIsThere) {
  KvCache cache(Mixed(), DType::kF16);
  ThreadPool one(1), three(3);
  CachedSequence a = cache.NewSequence(), b = cache.NewSequence();
  FillRandom(cache.layout(), a, 150, 1, one);
  FillRandom(cache.layout(), b, 150, 1, three);
  for (int64_t t = 0; t < 150; ++t) {
    EXPECT_EQ(Row(cache.layout(), a, t), Row(cache.layout(), b, t));
  }
  FillRandom(cache.layout(), a, 50, 2, three);  // from within a block
  EXPECT_EQ(a.length(), 200);
  for (int64_t t = 0; t < 150; ++t) {
    EXPECT_EQ(Row(cache.layout(), a, t), Row(cache.layout(), b, t));
  }
  FillRandom(cache.layout(), b, 0, 2, three);
  EXPECT_EQ(b.length(), 150);
}

TEST(FillCache, LeavesTheSequenceAloneWhenFull) {
  const ModelConfig config = Mixed();
  KvCache cache(config, DType::kF16, 2 * CacheLayout(config, DType::kF16).block_bytes());
  ThreadPool pool(1);
  CachedSequence sequence = cache.NewSequence();
  FillRandom(cache.layout(), sequence, 100, 1, pool);
  testing::ErrorOf([&] { FillRandom(cache.layout(), sequence, 100, 1, pool); });
  EXPECT_EQ(sequence.length(), 100);
}

}  // namespace
}  // namespace palu
