// Paged attention against float64 loops, over shapes, cache types, chunk sizes and positions.
#include "ops/attention.h"

#include "attention_fixture.h"

namespace palu::testing {
namespace {

const AttentionShapes kShapes[] = {
    {"mha plain", 2, 2, 64, 1, {}, {}},
    {"gqa plain", 8, 2, 16, 1, {}, {}},
    {"joint", 4, 4, 32, 4, {48}, {96}},
    {"groups of two, ranks differ", 4, 4, 32, 2, {16, 48}, {64, 32}},
    {"per head, fused", 4, 4, 32, 1, {16, 8, 24, 32}, {8, 16, 24, 8}, false, false, true},
    {"gqa with bias", 8, 2, 16, 2, {24}, {16}, true},
    {"gqa with bias and norm", 6, 2, 16, 2, {24}, {16}, true, true},
    {"keys plain, values low-rank", 4, 2, 32, 2, {}, {40}, true},
    {"far positions", 4, 2, 64, 2, {64}, {64}, false, false, false, 1000000},
    {"4 bits", 8, 4, 64, 4, {128}, {128}, false, false, false, 0, {.bits = 4}},
    {"4 bits in runs, bias and norm",
     4,
     4,
     48,
     2,
     {40, 16},
     {24, 80},
     true,
     true,
     false,
     5,
     {.bits = 4, .group = 32}},
    {"3 bits, symmetric",
     6,
     2,
     16,
     2,
     {24},
     {16},
     true,
     false,
     false,
     0,
     {.bits = 3, .symmetric = true}},
    {"2 bits, fused", 4, 4, 32, 2, {64, 8}, {16, 48}, false, false, true, 0, {.bits = 2}},
    {"8 bits", 4, 2, 32, 2, {48}, {64}, true, false, false, 0, {.bits = 8, .group = 16}},
    {.name = "4 bits, slow pairs as waves",
     .heads = 4,
     .kv_heads = 4,
     .head_dim = 64,
     .group = 4,
     .k_ranks = {128},
     .v_ranks = {64},
     .quantization = {.bits = 4},
     .up_scale = 0.1f,
     .split = true},
    {.name = "slow pairs as waves",
     .heads = 4,
     .kv_heads = 4,
     .head_dim = 64,
     .group = 4,
     .k_ranks = {128},
     .v_ranks = {64},
     .up_scale = 0.1f,
     .split = true},
    {.name = "tiers",
     .heads = 4,
     .kv_heads = 4,
     .head_dim = 32,
     .group = 2,
     .k_ranks = {64, 64},
     .v_ranks = {64, 64},
     .bias = true,
     .tiers = {{16, 8}, {16, 3}, {32, 2}}},
    {.name = "tiers of one latent for keys and values",
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 16,
     .group = 2,
     .k_ranks = {48},
     .v_ranks = {48},
     .fused = true,
     .tiers = {{16, 4}, {32, 2}},
     .shared = true},
    {.name = "tiers, recent tokens as they were",
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 32,
     .group = 2,
     .k_ranks = {48, 48},
     .v_ranks = {48, 48},
     .bias = true,
     .tiers = {{16, 4}, {32, 2}},
     .recent = 16},
    {.name = "one latent for keys and values, recent tokens as they were",
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 16,
     .group = 2,
     .k_ranks = {48},
     .v_ranks = {48},
     .fused = true,
     .tiers = {{16, 4}, {32, 2}},
     .shared = true,
     .recent = 70},
    {"keys plain, values at 4 bits", 4, 2, 32, 2, {}, {40}, true, false, false, 0, {.bits = 4}},
};

TEST(Attention, DecodeAndPrefillMatchTheReference) {
  for (const AttentionShapes& shapes : kShapes) {
    if (shapes.split) continue;  // attention_split_test.cc
    for (const DType cache : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(std::string(shapes.name) + " " + std::string(Name(cache)));
      // One token of a long, of a fresh and of a block-aligned sequence, two tokens, and prefill
      // chunks with and without a past, ragged and longer than a key tile.
      AttentionFixture fixture(shapes, cache,
                               {{150, 1}, {0, 1}, {63, 1}, {64, 2}, {0, 70}, {130, 40}});
      fixture.ExpectReference(fixture.Run(2));
    }
  }
}

TEST(Attention, LongContextsAreSplitAndTiled) {
  for (const AttentionShapes* shapes : {&kShapes[2], &kShapes[9]}) {
    AttentionFixture fixture(*shapes, DType::kF16, {{2100, 1}, {1023, 1}, {1024, 1}, {500, 40}});
    fixture.ExpectReference(fixture.Run(2));
  }
}

// The window ends inside a tile of keys, at its end and in the tile before.
TEST(Attention, RecentTokensLieInAnyTile) {
  for (const AttentionShapes& shapes : kShapes) {
    if (shapes.recent == 0) continue;
    SCOPED_TRACE(shapes.name);
    AttentionFixture fixture(shapes, DType::kF16,
                             {{255, 1}, {256, 1}, {270, 1}, {256, 40}, {250, 300}});
    fixture.ExpectReference(fixture.Run(2));
  }
}

TEST(Attention, NeitherThreadsNorNeighboursChangeABit) {
  for (const AttentionShapes& shapes : kShapes) {
    SCOPED_TRACE(shapes.name);
    AttentionFixture fixture(shapes, DType::kF16, {{1500, 1}, {0, 90}, {64, 2}});
    fixture.Run(1);
    Matrix<float> expected(fixture.out.rows(), fixture.out.cols());
    std::copy_n(fixture.out.data(), fixture.out.size(), expected.data());
    for (const int threads : {2, 3}) {
      fixture.Run(threads);
      EXPECT_TRUE(SameBits(expected, fixture.out)) << threads;
    }
    const std::vector<QueryChunk> all = fixture.chunks;
    for (const QueryChunk& chunk : all) {
      fixture.chunks = {chunk};
      fixture.Run(2);
      EXPECT_TRUE(SameBits(expected.View().RowRange(chunk.row, chunk.count),
                           fixture.out.View().RowRange(chunk.row, chunk.count)));
    }
  }
}

TEST(Attention, FreshRowsReplaceTheChunksStoredOnes) {
  const AttentionShapes& joint = kShapes[2];
  AttentionFixture fixture(joint, DType::kF32, {{100, 60}});
  const std::vector<double> stored = fixture.Run(1);
  // The same numbers handed over beside the cache give the same result.
  const QueryChunk chunk = fixture.chunks[0];
  Matrix<float> k(60, 48), v(60, 96);
  for (int64_t t = 0; t < 60; ++t) {
    const auto& kp = fixture.layer.k.pages;
    const auto& vp = fixture.layer.v.pages;
    std::memcpy(k.Row(t), chunk.table.Row(kp, kp.pages[0], 100 + t), 48 * sizeof(float));
    std::memcpy(v.Row(t), chunk.table.Row(vp, vp.pages[0], 100 + t), 96 * sizeof(float));
  }
  ThreadPool pool(1);
  AttentionWorkspace workspace;
  Matrix<float> out(60, fixture.layer.output_width());
  PagedAttention({pool}, fixture.layer, fixture.chunks, fixture.q, {k, v}, {}, workspace, out);
  for (int64_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(out.data()[i], static_cast<float>(stored[static_cast<size_t>(i)]));
  }
}

}  // namespace
}  // namespace palu::testing
