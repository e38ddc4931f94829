// Decoding with slow rotary pairs as waves against keys rebuilt whole, in float64. A score moves by
// no more than the bound B of ops/lane_keys.h, so a probability by a factor within e^(+-2 B), and
// an average of values by (e^(2 B) - 1) times the largest of them.
#include "attention_fixture.h"
#include "split_bound.h"

namespace palu::testing {
namespace {

struct Bound {
  double score = 0;  // of any key of the chunk's token
  double value = 0;  // the largest element of a value
};

// The bound of one query head of a chunk's only token; `cost`: of the kernel that is used.
Bound BoundOf(const AttentionFixture& fixture, const QueryChunk& chunk, int64_t head,
              const FrequencySplit& split, const SplitCost& cost) {
  const AttentionLayer& layer = fixture.layer;
  const int64_t kv_head = head / layer.heads_per_kv(), half = layer.head_dim / 2;
  const auto up_k = reference::UpRows(layer, layer.k, kv_head);
  const auto up_v = reference::UpRows(layer, layer.v, kv_head);
  const auto stored = [&](const AttentionProjection& p, int64_t token) {
    return reference::StoredRow(p, chunk, p.pages.OfHead(kv_head), token);
  };
  const auto value = [&](int64_t token) {
    return token >= fixture.recent.Begin(chunk, chunk.start)
               ? reference::RecentRow(layer.v, chunk, fixture.recent.v, kv_head, token)
               : stored(layer.v, token);
  };
  const float* q = fixture.q.Row(chunk.row) + head * layer.head_dim;
  Bound bound;
  for (int64_t begin = 0; begin <= chunk.start; begin += split.block_tokens) {
    const int64_t end = std::min(begin + split.block_tokens, chunk.start + 1);
    std::optional<SplitBound> rounding;
    if (!layer.k.int8_up.empty()) {
      rounding.emplace(layer.k.int8_up[static_cast<size_t>(kv_head)], split, fixture.frequencies(),
                       q, chunk.first_position + begin + split.block_tokens / 2);
    }
    const bool pays = cost.Pays(split, end - begin);
    std::optional<TierBound> tiers;
    if (layer.k.pages.tiered) {
      tiers.emplace(up_k, layer.k.pages.OfHead(kv_head).tiers, split, fixture.frequencies(), q,
                    chunk.first_position + begin + split.block_tokens / 2);
    }
    for (int64_t t = begin; t < end; ++t) {
      for (const double x : reference::Rebuild(layer, layer.v, up_v, kv_head, value(t))) {
        bound.value = std::max(bound.value, std::abs(x));
      }
      if (tiers && !pays) {
        const double moved = tiers->Rebuilt(half, stored(layer.k, t));
        bound.score = std::max(bound.score, double{layer.scale} * moved);
      }
      if (!pays) continue;
      const auto key = reference::Rebuild(layer, layer.k, up_k, kv_head, stored(layer.k, t));
      double moved = 0;
      for (int64_t f = split.exact_pairs; f < half; ++f) {
        const auto i = static_cast<size_t>(f), j = static_cast<size_t>(f + half);
        moved += split.max_error * std::hypot(q[f], q[f + half]) * std::hypot(key[i], key[j]);
      }
      if (rounding) moved += rounding->Rounding(stored(layer.k, t), t - begin);
      if (tiers) {
        moved += tiers->Rebuilt(split.exact_pairs, stored(layer.k, t)) +
                 tiers->Waves(stored(layer.k, t), t - begin);
      }
      bound.score = std::max(bound.score, double{layer.scale} * moved);
    }
  }
  return bound;
}

void ExpectWithinBound(const AttentionShapes& shapes) {
  SCOPED_TRACE(shapes.name);
  // Whole runs of tokens, a run too short for waves, and both in one sequence.
  AttentionFixture fixture(shapes, DType::kF16, {{511, 1}, {1030, 1}, {10, 1}});
  const AttentionLayer& layer = fixture.layer;
  const bool lanes = !layer.k.lane_keys.empty();
  const LaneSplit* split = lanes ? layer.k.lane_keys[0].split() : layer.k.split;
  ASSERT_NE(split, nullptr);
  const int64_t queries = layer.heads_per_kv();
  const SplitCost cost = lanes ? layer.k.lane_keys[0].cost(queries) : WaveSplitCost(queries);
  const std::vector<double> found = fixture.Run(2);
  double largest = 0;
  for (const QueryChunk& chunk : fixture.chunks) {
    for (int64_t head = 0; head < layer.heads; ++head) {
      const Bound bound = BoundOf(fixture, chunk, head, split->split, cost);
      const std::vector<double> expected = fixture.Reference(chunk, head);
      const int64_t first = (chunk.row * layer.heads + head) * layer.head_dim;
      for (int64_t i = 0; i < layer.head_dim; ++i) {
        ASSERT_NEAR(found[static_cast<size_t>(first + i)], expected[static_cast<size_t>(i)],
                    std::expm1(2 * bound.score) * bound.value + fixture.Tolerance());
      }
      largest = std::max(largest, bound.score);
    }
  }
  EXPECT_GT(largest, 0) << "no run was long enough";
}

AttentionShapes Mha(const LatentQuantization& quantization) {
  return {.name = "one query per KV head",
          .heads = 4,
          .kv_heads = 4,
          .head_dim = 64,
          .group = 4,
          .k_ranks = {128},
          .v_ranks = {64},
          .quantization = quantization,
          .up_scale = 0.1f,
          .split = true};
}

AttentionShapes FarGqa(const LatentQuantization& quantization) {
  return {.name = "two queries per KV head, positions up to a million",
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 128,
          .group = 2,
          .k_ranks = {136},
          .v_ranks = {40},
          .first_position = 1000000 - 200,
          .quantization = quantization,
          .up_scale = 0.1f,
          .split = true};
}

TEST(AttentionSplit, QuantisedLatentsStayWithinTheBound) {
  if (!LaneKeys::Available()) GTEST_SKIP() << "this machine rebuilds keys from codes whole";
  ExpectWithinBound(Mha({.bits = 4}));
  ExpectWithinBound(FarGqa({.bits = 3}));
}

// Waves, keys rebuilt whole and recent ones in one sequence; a bias has its part in each.
TEST(AttentionSplit, TiersStayWithinTheBound) {
  if (!LaneKeys::Available()) GTEST_SKIP() << "this machine rebuilds keys from tiers whole";
  AttentionShapes mha = Mha({});
  mha.bias = true;
  mha.v_ranks = {128};
  mha.tiers = {{16, 8}, {32, 4}, {48, 3}, {32, 2}};
  mha.recent = 16;
  ExpectWithinBound(mha);
  AttentionShapes gqa = FarGqa({});
  gqa.k_ranks = {144};
  gqa.v_ranks = {144};
  gqa.tiers = {{16, 4}, {128, 3}};
  gqa.shared = true;
  ExpectWithinBound(gqa);
}

TEST(AttentionSplit, KeysWithABiasStayWithinTheBound) {
  if (!LaneKeys::Available()) GTEST_SKIP() << "this machine rebuilds keys from codes whole";
  AttentionShapes gqa = FarGqa({.bits = 4});
  gqa.bias = true;
  ExpectWithinBound(gqa);
}

TEST(AttentionSplit, LatentsInHalfPrecisionStayWithinTheBound) {
  ExpectWithinBound(Mha({}));
  ExpectWithinBound(FarGqa({}));
}

}  // namespace
}  // namespace palu::testing
