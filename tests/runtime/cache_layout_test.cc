#include "runtime/cache_layout.h"

#include <algorithm>

#include "model/hf_config.h"
#include "testing.h"

namespace palu {
namespace {

ModelConfig Wiki() { return LoadConfig(testing::Repo("models/wiki-7m-mha")); }

// The ranks that the published code finds for wiki-7m-mha at 50 %
// (reference_palu_wiki-7m-mha.json).
ModelConfig WikiAtHalf() {
  ModelConfig config = Wiki();
  config.compression = KvCompression{};
  for (const auto& [k, v] : std::vector<std::pair<int64_t, int64_t>>{
           {32, 128}, {64, 224}, {64, 192}, {64, 160}, {64, 192}, {224, 192}}) {
    config.compression->layers.push_back({{{k}}, {{v}}});
  }
  return config;
}

TEST(CacheLayout, DenseHalfTakesWhatEverybodyCounts) {
  const ModelConfig config = Wiki();
  const CacheLayout layout(config, DType::kF16);
  EXPECT_EQ(layout.bytes_per_token(), 2.0 * 6 * 4 * 64 * 2);
  EXPECT_EQ(layout.bytes_per_token(), static_cast<double>(DenseBytesPerToken(config)));
  EXPECT_EQ(layout.bits_per_element(), 16);
  EXPECT_EQ(CacheLayout(config, DType::kF32).bits_per_element(), 32);
}

TEST(CacheLayout, BitsPerElementAreTheReferences) {
  EXPECT_NEAR(CacheLayout(WikiAtHalf(), DType::kF16).bits_per_element(), 8.333, 5e-4);
}

TEST(CacheLayout, PagesCoverTheBlockWithoutOverlap) {
  const ModelConfig config = WikiAtHalf();
  const CacheLayout layout(config, DType::kF16);
  std::vector<std::pair<int64_t, int64_t>> ranges;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    for (const CachedPages* pages : {&layout.layer(l).k, &layout.layer(l).v}) {
      EXPECT_TRUE(pages->latent);
      EXPECT_EQ(pages->heads_per_page, 4);
      for (const auto& page : pages->pages) {
        EXPECT_EQ(page.offset % 64, 0);
        ranges.emplace_back(page.offset, page.offset + kBlockTokens * page.width * 2);
      }
    }
  }
  std::sort(ranges.begin(), ranges.end());
  int64_t end = 0;
  for (const auto& [begin, stop] : ranges) {
    EXPECT_EQ(begin, end);
    end = stop;
  }
  EXPECT_EQ(end, layout.block_bytes());
}

// Layer 0 with one latent for keys and values, layer 1 with one each.
ModelConfig WikiInTiers() {
  ModelConfig config = Wiki();
  config.num_layers = 2;
  KvCompression kv;
  kv.tiered = true;
  kv.layers.resize(2);
  kv.layers[0].k = {{96}, {{{16, 8}, {32, 3}, {48, 2}}}};
  kv.layers[0].v = kv.layers[0].k;
  kv.layers[0].shared = true;
  kv.layers[1].k = {{16}, {{{16, 4}}}};
  kv.layers[1].v = {{32}, {{{32, 2}}}};
  config.compression = kv;
  return config;
}

TEST(CacheLayout, TiersAreCountedWithTheirScales) {
  const CacheLayout layout(WikiInTiers(), DType::kF16);
  // Codes of 16 x 8 + 32 x 3 + 48 x 2, 16 x 4 and 32 x 2 bits; five scales of a byte.
  EXPECT_EQ(layout.bytes().codes, 16 + 12 + 12 + 8 + 8);
  EXPECT_EQ(layout.bytes().scales, 5);
  EXPECT_EQ(layout.bytes().zeros, 0);
  EXPECT_EQ(layout.bytes().padding, 0);
  EXPECT_EQ(layout.bytes_per_token(), 61);
  EXPECT_EQ(layout.bits_per_element(), 8.0 * 61 / (2 * 2 * 256));
  EXPECT_EQ(layout.latents_per_token(), 96 + 16 + 32);
  EXPECT_TRUE(layout.tiered());
  EXPECT_EQ(layout.kernel(), "float32 products");
  EXPECT_NE(testing::ErrorOf([] {
              CacheLayout(WikiInTiers(), {DType::kF16, 4});
            }).find("tiers of bits"),
            std::string::npos);
}

TEST(CacheLayout, TheWindowIsCountedAtTheStatedContext) {
  ModelConfig config = WikiInTiers();
  config.compression->recent = 16;
  const CacheLayout layout(config, DType::kF16);
  EXPECT_EQ(layout.window_bytes(), 16 * (96 + 16 + 32) * 2);
  EXPECT_EQ(layout.bytes().recent, 16.0 * (96 + 16 + 32) * 2 / 2048);
  EXPECT_EQ(layout.bytes_per_token(), 61 + layout.bytes().recent);
  EXPECT_EQ(layout.BytesFor(65), 2 * 64 * 61 + layout.window_bytes());
  EXPECT_EQ(layout.layer(0).v.pages[0].window_offset, 0);  // that of the keys
  EXPECT_EQ(layout.layer(1).k.pages[0].window_offset, 16 * 96 * 2);
  EXPECT_EQ(layout.layer(1).v.pages[0].window_offset, 16 * (96 + 16) * 2);
}

TEST(CacheLayout, TiersLieOneAfterTheOtherAndSharedLatentsOnce) {
  const CacheLayout layout(WikiInTiers(), DType::kF16);
  const CachedPages &k = layout.layer(0).k, &v = layout.layer(0).v;
  ASSERT_EQ(k.pages.size(), 1u);
  ASSERT_EQ(k.pages[0].tiers.size(), 3u);
  int64_t end = 0;
  const auto walk = [&](const CachedPages& pages) {
    int64_t column = 0;
    pages.ForTiers(pages.pages[0], [&](const PageTier& tier) {
      EXPECT_EQ(tier.offset, end);
      EXPECT_EQ(tier.offset % 64, 0);
      EXPECT_EQ(tier.column, column);
      end += kBlockTokens * tier.quantization.bytes(tier.width);
      column += tier.width;
    });
    EXPECT_EQ(column, pages.pages[0].width);
  };
  walk(k);
  EXPECT_EQ(v.pages[0].offset, k.pages[0].offset);
  EXPECT_EQ(v.pages[0].tiers.size(), 3u);
  walk(layout.layer(1).k);
  walk(layout.layer(1).v);
  EXPECT_EQ(end, layout.block_bytes());
}

TEST(CacheLayout, PaddingCounts) {
  ModelConfig config = WikiAtHalf();
  config.compression->layers[0].k.ranks = {
      1};  // 64 x 1 F16 = 128 bytes: two cache lines, no padding
  const int64_t with_one = CacheLayout(config, DType::kF16).block_bytes();
  config.compression->layers[0].k.ranks = {2};
  EXPECT_EQ(CacheLayout(config, DType::kF16).block_bytes(), with_one + 128);
}

TEST(CacheLayout, MixesDenseAndLatentProjections) {
  ModelConfig config = WikiAtHalf();
  config.compression->layers[5].k.ranks.clear();
  const CacheLayout layout(config, DType::kF16);
  EXPECT_FALSE(layout.layer(5).k.latent);
  EXPECT_EQ(layout.layer(5).k.pages.size(), 4u);
  EXPECT_EQ(layout.layer(5).k.pages[0].width, 64);
  EXPECT_EQ(layout.layer(5).k.width(), 256);
}

// Sum of the ranks: 1600. 4 bits: 800 bytes of codes, a scale of two and a zero of one byte for
// each of 12 pages.
TEST(CacheLayout, QuantisedBytesAreCodesScalesAndZeros) {
  ModelConfig config = WikiAtHalf();
  config.compression->quantization.bits = 4;
  const CacheLayout layout(config, DType::kF16);
  EXPECT_EQ(layout.bytes_per_token(), 800 + 12 * 3);
  EXPECT_EQ(layout.bytes().codes, 800);
  EXPECT_EQ(layout.bytes().scales, 24);
  EXPECT_EQ(layout.bytes().zeros, 12);
  EXPECT_EQ(layout.bytes().padding, 0);
  EXPECT_EQ(layout.latents_per_token(), 1600);
  EXPECT_DOUBLE_EQ(layout.bits_per_element(), 836 * 8 / 3072.0);
  config.compression->quantization.symmetric = true;
  EXPECT_EQ(CacheLayout(config, DType::kF16).bytes_per_token(), 800 + 12 * 2);
  EXPECT_EQ(CacheLayout(config, {DType::kF16, 16}).bytes_per_token(), 3200);
  EXPECT_EQ(CacheLayout(config, {DType::kF16, 3}).bytes().codes, 600);
}

TEST(CacheLayout, EffectiveLayoutInOneLine) {
  ModelConfig config = WikiAtHalf();
  config.compression->quantization.bits = 8;
  EXPECT_EQ(CacheLayout(config, DType::kF16).Describe(),
            "1600 latents at 8 bits and 0 plain elements per token, 1636.0 bytes per token, 4.260 "
            "bits per element, keys from float32 products");
}

TEST(CacheLayout, RefusesLatentsThatCannotBeQuantised) {
  EXPECT_NE(testing::ErrorOf([] {
              CacheLayout(Wiki(), {DType::kF16, 4});
            }).find("dense one"),
            std::string::npos);
  ModelConfig config = WikiAtHalf();
  EXPECT_NE(testing::ErrorOf([&] {
              CacheLayout(config, {DType::kF16, 5});
            }).find("found 5"),
            std::string::npos);
  config.compression->layers[0].k.ranks = {20};
  EXPECT_NE(testing::ErrorOf([&] {
              CacheLayout(config, {DType::kF16, 4});
            }).find("found 20"),
            std::string::npos);
}

TEST(CacheLayout, BlocksForRoundsUp) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(64), 1);
  EXPECT_EQ(BlocksFor(65), 2);
}

}  // namespace
}  // namespace palu
