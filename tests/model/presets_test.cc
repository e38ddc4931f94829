#include "model/presets.h"

#include "model/weights.h"
#include "testing.h"

namespace palu {
namespace {

// The number of parameters that a configuration's weight table holds.
int64_t Parameters(const ModelConfig& config) {
  ModelWeights weights;
  int64_t sum = 0;
  for (const WeightSlot& slot : WeightTable(config, weights)) sum += NumElements(slot.shape);
  return sum;
}

TEST(Presets, HaveThePublishedParameterCounts) {
  EXPECT_EQ(Parameters(*Preset("llama-2-7b")), 6738415616);
  EXPECT_EQ(Parameters(*Preset("llama-3-8b")), 8030261248);
  EXPECT_EQ(Parameters(*Preset("llama-3.2-1b")), 1235814400);
  EXPECT_EQ(Parameters(*Preset("mistral-7b")), 7248023552);
  EXPECT_EQ(Parameters(*Preset("qwen2.5-7b")), 7615616512);
  EXPECT_FALSE(Preset("gpt-5"));
  EXPECT_EQ(PresetNames().size(), 5u);
  for (const std::string_view name : PresetNames()) EXPECT_TRUE(Preset(name)) << name;
}

TEST(Presets, HaveThePublishedSizes) {
  const auto sizes = [](std::string_view name) {
    const ModelConfig c = *Preset(name);
    return std::vector<int64_t>{
        c.num_layers,   c.hidden_size, c.intermediate_size, c.num_heads,
        c.num_kv_heads, c.head_dim,    c.vocab_size,        static_cast<int64_t>(c.rope.theta)};
  };
  using Sizes = std::vector<int64_t>;
  EXPECT_EQ(sizes("llama-2-7b"), (Sizes{32, 4096, 11008, 32, 32, 128, 32000, 10000}));
  EXPECT_EQ(sizes("llama-3-8b"), (Sizes{32, 4096, 14336, 32, 8, 128, 128256, 500000}));
  EXPECT_EQ(sizes("llama-3.2-1b"), (Sizes{16, 2048, 8192, 32, 8, 64, 128256, 500000}));
  EXPECT_EQ(sizes("mistral-7b"), (Sizes{32, 4096, 14336, 32, 8, 128, 32768, 1000000}));
  EXPECT_EQ(sizes("qwen2.5-7b"), (Sizes{28, 3584, 18944, 28, 4, 128, 152064, 1000000}));
}

TEST(Presets, HaveThePublishedFlags) {
  const ModelConfig small = *Preset("llama-3.2-1b");
  EXPECT_TRUE(small.tied_embeddings);
  EXPECT_EQ(small.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(small.rope.factor, 32);
  EXPECT_EQ(small.rope.low_freq_factor, 1);
  EXPECT_EQ(small.rope.high_freq_factor, 4);
  EXPECT_EQ(small.rope.original_max_position, 8192);
  EXPECT_TRUE(Preset("qwen2.5-7b")->qkv_bias);
  EXPECT_EQ(Preset("qwen2.5-7b")->rms_norm_eps, 1e-6);
  EXPECT_EQ(Preset("mistral-7b")->model_type, "mistral");
  EXPECT_EQ(Preset("llama-3-8b")->rope.scaling, RopeScaling::kNone);
  EXPECT_FALSE(Preset("llama-2-7b")->qkv_bias);
}

}  // namespace
}  // namespace palu
