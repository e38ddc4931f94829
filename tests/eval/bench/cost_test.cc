// Counted by hand on a configuration small enough for that.
#include "eval/bench/cost.h"

#include "testing.h"

namespace palu {
namespace {

// q: 32 wide, k and v: 16, heads of 8; two query heads per KV head. BF16 weights, F16 cache.
ModelConfig Tiny() {
  ModelConfig config;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_layers = 1;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 100;
  return config;
}

struct Fixture {
  explicit Fixture(const ModelConfig& config, ValueFusion fusion = ValueFusion::kOff)
      : model(Model::Random(config, DType::kBF16, 1)),
        layout(config, DType::kF16),
        transformer(model, layout, {.pool = pool}, {.fusion = fusion}) {}

  Cost Count(std::vector<ChunkShape> chunks) { return CountStep(transformer, layout, chunks); }

  ThreadPool pool{1};
  Model model;
  CacheLayout layout;
  Transformer transformer;
};

constexpr int64_t kMlp = 3 * 32 * 48;
constexpr int64_t kHead = 100 * 32;

TEST(BenchCost, DenseDecode) {
  Fixture dense(Tiny());
  const int64_t parameters = 2 * 32 * 32 + 2 * 16 * 32 + kMlp;  // q and o, k and v, mlp
  const Cost one = dense.Count({{9, 1}});                       // sees 10 tokens
  // Matrices, head and one embedding row of 2 bytes each; 10 tokens of 2 * 16 halves.
  EXPECT_EQ(one.bytes, 2 * (parameters + kHead + 32) + 10 * 64);
  // 10 pairs: scores and values of 4 heads of 8.
  EXPECT_EQ(one.flops, 2 * (parameters + kHead) + 2 * 2 * 32 * 10);
  // A batch streams the weights once.
  const Cost three = dense.Count({{9, 1}, {9, 1}, {9, 1}});
  EXPECT_EQ(three.bytes, one.bytes + 2 * (2 * 32 + 10 * 64));
  EXPECT_EQ(three.flops, 3 * one.flops);
}

TEST(BenchCost, DensePrefill) {
  Fixture dense(Tiny());
  const int64_t parameters = 2 * 32 * 32 + 2 * 16 * 32 + kMlp;
  const Cost chunk = dense.Count({{5, 4}});
  const int64_t pairs = 6 + 7 + 8 + 9;
  EXPECT_EQ(chunk.flops, 2 * parameters * 4 + 2 * kHead + 2 * 2 * 32 * pairs);
  EXPECT_EQ(chunk.bytes, 2 * (parameters + kHead + 4 * 32) + 9 * 64);
}

ModelConfig TinyCompressed() {
  ModelConfig config = Tiny();
  config.compression = KvCompression{};
  config.compression->group_size = 2;
  config.compression->layers = {{{{6}}, {{10}}}};  // one group of both KV heads
  return config;
}

TEST(BenchCost, CompressedDecode) {
  Fixture latent(TinyCompressed());
  const int64_t row = 2 * 32 * 32 + (6 + 10) * 32 + kMlp;  // applied to every token
  const int64_t k_up = 16 * 6, v_up = 16 * 10;
  const Cost one = latent.Count({{9, 1}});
  EXPECT_EQ(one.bytes, 2 * (row + k_up + v_up + kHead + 32) + 10 * 2 * (6 + 10));
  // Keys rebuilt for 10 tokens and scored by 32 query elements; 4 heads sum latents of 10 values
  // and each applies its 8 x 10 part of U_v once.
  EXPECT_EQ(one.flops, 2 * (row + kHead) + 2 * (k_up * 10 + 32 * 10 + 4 * 10 * 10 + 4 * 8 * 10));
}

TEST(BenchCost, CompressedPrefillRebuildsValues) {
  Fixture latent(TinyCompressed());
  const int64_t row = 2 * 32 * 32 + (6 + 10) * 32 + kMlp;
  const int64_t k_up = 16 * 6, v_up = 16 * 10, pairs = 6 + 7 + 8 + 9;
  EXPECT_EQ(latent.Count({{5, 4}}).flops,
            2 * (row * 4 + kHead) + 2 * (k_up * 9 + v_up * 9 + 32 * pairs + 32 * pairs));
}

TEST(BenchCost, FusedOutputReplacesUv) {
  Fixture fused(TinyCompressed(), ValueFusion::kOn);
  ASSERT_TRUE(fused.transformer.fused(0));
  // W_o' has 10 columns for each of 4 heads, in F16.
  const int64_t row = 32 * 32 + 32 * 40 + (6 + 10) * 32 + kMlp, k_up = 16 * 6;
  const Cost one = fused.Count({{9, 1}});
  EXPECT_EQ(one.bytes, 2 * (row + k_up + kHead + 32) + 10 * 2 * (6 + 10));
  EXPECT_EQ(one.flops, 2 * (row + kHead) + 2 * (k_up * 10 + 32 * 10 + 4 * 10 * 10));
}

}  // namespace
}  // namespace palu
