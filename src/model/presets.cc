#include "model/presets.h"

#include <iterator>

namespace palu {
namespace {

// Numbers as in the config.json that each publisher distributes.
struct Entry {
  std::string_view name;
  Family family;
  int64_t layers, hidden, inter, heads, kv_heads, vocab, max_position;
  double theta, eps;
};

constexpr Entry kEntries[] = {
    {"llama-2-7b", Family::kLlama, 32, 4096, 11008, 32, 32, 32000, 4096, 1e4, 1e-5},
    {"llama-3-8b", Family::kLlama, 32, 4096, 14336, 32, 8, 128256, 8192, 5e5, 1e-5},
    {"llama-3.2-1b", Family::kLlama, 16, 2048, 8192, 32, 8, 128256, 131072, 5e5, 1e-5},
    {"mistral-7b", Family::kMistral, 32, 4096, 14336, 32, 8, 32768, 32768, 1e6, 1e-5},
    {"qwen2.5-7b", Family::kQwen2, 28, 3584, 18944, 28, 4, 152064, 131072, 1e6, 1e-6},
};

constexpr std::string_view kNames[] = {kEntries[0].name, kEntries[1].name, kEntries[2].name,
                                       kEntries[3].name, kEntries[4].name};
static_assert(std::size(kNames) == std::size(kEntries));

ModelConfig Expand(const Entry& entry) {
  ModelConfig config;
  config.family = entry.family;
  config.model_type = Name(entry.family);
  config.num_layers = entry.layers;
  config.hidden_size = entry.hidden;
  config.intermediate_size = entry.inter;
  config.num_heads = entry.heads;
  config.num_kv_heads = entry.kv_heads;
  config.head_dim = entry.hidden / entry.heads;
  config.vocab_size = entry.vocab;
  config.max_position = entry.max_position;
  config.rms_norm_eps = entry.eps;
  config.rope.theta = entry.theta;
  config.qkv_bias = entry.family == Family::kQwen2;
  if (entry.name == "llama-3.2-1b") {
    config.tied_embeddings = true;
    config.rope.scaling = RopeScaling::kLlama3;
    config.rope.factor = 32;
    config.rope.low_freq_factor = 1;
    config.rope.high_freq_factor = 4;
    config.rope.original_max_position = 8192;
  }
  return config;
}

}  // namespace

std::span<const std::string_view> PresetNames() { return kNames; }

std::optional<ModelConfig> Preset(std::string_view name) {
  for (const Entry& entry : kEntries) {
    if (entry.name == name) return Expand(entry);
  }
  return std::nullopt;
}

}  // namespace palu
