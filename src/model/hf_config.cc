#include "model/hf_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "io/json_object.h"
#include "model/hf_config_parts.h"

namespace palu {
namespace {

using nlohmann::json;

// Bounds that keep every product of two sizes, in bytes, far below 2^63.
constexpr int64_t kMaxSize = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1 << 16;
constexpr int64_t kMaxPosition = int64_t{1} << 31;
constexpr int64_t kMaxToken = INT32_MAX;
constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

struct Architecture {
  std::string_view model_type;
  Family family;
  bool published_palu;
};

constexpr Architecture kArchitectures[] = {
    {"llama", Family::kLlama, false},    {"mistral", Family::kMistral, false},
    {"qwen2", Family::kQwen2, false},    {"qwen3", Family::kQwen3, false},
    {"palullama", Family::kLlama, true}, {"palumistral", Family::kMistral, true},
    {"paluqwen2", Family::kQwen2, true},
};

const Architecture& FindArchitecture(const JsonObject& config) {
  const std::string type = config.String("model_type");
  for (const Architecture& known : kArchitectures) {
    if (known.model_type == type) return known;
  }
  config.Mismatch("model_type", "llama, mistral, qwen2, qwen3, palullama, palumistral or paluqwen2",
                  Describe(type));
}

void ParseSizes(const JsonObject& config, ModelConfig& model) {
  model.hidden_size = config.Int("hidden_size", 1, kMaxSize);
  model.intermediate_size = config.Int("intermediate_size", 1, kMaxSize);
  model.num_layers = config.Int("num_hidden_layers", 1, kMaxLayers);
  model.num_heads = config.Int("num_attention_heads", 1, kMaxHeads);
  model.vocab_size = config.Int("vocab_size", 1, kMaxSize);
  model.max_position = config.Int("max_position_embeddings", 1, kMaxPosition);
  model.rms_norm_eps = config.Positive("rms_norm_eps", 1e-6);
  // Absent means "as many as heads" for Llama; the other families' own defaults differ by release.
  const bool present = config.value().contains("num_key_value_heads");
  model.num_kv_heads = present || model.family == Family::kLlama
                           ? config.Int("num_key_value_heads", 1, kMaxHeads, model.num_heads)
                           : config.Int("num_key_value_heads", 1, kMaxHeads);
  if (model.num_heads % model.num_kv_heads != 0) {
    config.Mismatch("num_key_value_heads",
                    fmt::format("a divisor of the {} attention heads", model.num_heads),
                    std::to_string(model.num_kv_heads));
  }
  if (config.Has("head_dim") || model.family == Family::kQwen3) {
    model.head_dim = config.Int("head_dim", 2, kMaxSize / model.num_heads);
  } else {
    if (model.hidden_size % model.num_heads != 0) {
      config.Mismatch("hidden_size",
                      fmt::format("a multiple of the {} attention heads", model.num_heads),
                      std::to_string(model.hidden_size));
    }
    model.head_dim = model.hidden_size / model.num_heads;
  }
  if (model.head_dim % 2 != 0) {
    config.Mismatch("head_dim", "an even number", std::to_string(model.head_dim));
  }
}

void ParseBiases(const JsonObject& config, ModelConfig& model) {
  const bool attention = config.Bool("attention_bias", false);
  switch (model.family) {
    case Family::kLlama:
      model.qkv_bias = model.o_bias = attention;
      model.mlp_bias = config.Bool("mlp_bias", false);
      break;
    case Family::kMistral:
      break;
    case Family::kQwen2:
      model.qkv_bias = true;
      break;
    case Family::kQwen3:
      model.qkv_bias = model.o_bias = attention;
      model.qk_norm = true;
      break;
  }
}

// A window at least as long as the context changes nothing; a shorter one is refused.
void RefuseSlidingWindow(const JsonObject& config, const ModelConfig& model) {
  bool used = model.family == Family::kMistral;
  if (model.family == Family::kQwen2 || model.family == Family::kQwen3) {
    used = config.Bool("use_sliding_window", false) &&
           config.Int("max_window_layers", 0, INT32_MAX, 0) < model.num_layers;
  }
  if (!used || !config.Has("sliding_window")) return;
  const int64_t window = config.Int("sliding_window", 1, INT64_MAX);
  if (window < model.max_position) {
    config.Mismatch("sliding_window",
                    fmt::format("none or at least max_position_embeddings ({}), as windowed "
                                "attention is not supported",
                                model.max_position),
                    std::to_string(window));
  }
}

void RefuseUnsupported(const JsonObject& config, const ModelConfig& model) {
  const std::string activation = config.String("hidden_act", "silu");
  if (activation != "silu") config.Mismatch("hidden_act", "\"silu\"", Describe(activation));
  if (config.Has("quantization_config")) {
    config.Mismatch("quantization_config", "plain F32, F16 or BF16 weights", "quantised ones");
  }
  for (const char* key : {"torch_dtype", "dtype"}) {
    std::string dtype = config.String(key, "float32");
    if (dtype.starts_with("torch.")) dtype.erase(0, 6);
    if (dtype != "float32" && dtype != "float16" && dtype != "bfloat16" && dtype != "auto") {
      config.Mismatch(key, "float32, float16 or bfloat16", Describe(dtype));
    }
  }
  RefuseSlidingWindow(config, model);
}

void AddEndTokens(const JsonObject& config, std::vector<int32_t>& ids) {
  for (int64_t id : config.Ints("eos_token_id", 0, kMaxToken, true)) {
    const auto token = static_cast<int32_t>(id);
    if (std::find(ids.begin(), ids.end(), token) == ids.end()) ids.push_back(token);
  }
}

}  // namespace

ModelConfig ParseConfig(std::string_view text, std::string_view where) {
  const json value = ParseJson(text, where);
  const JsonObject config(value, where);
  const Architecture& architecture = FindArchitecture(config);
  ModelConfig model;
  model.family = architecture.family;
  model.model_type = architecture.model_type;
  ParseSizes(config, model);
  ParseBiases(config, model);
  RefuseUnsupported(config, model);
  model.rope = ParseRope(config);
  model.tied_embeddings = config.Bool("tie_word_embeddings", false);
  if (config.Has("bos_token_id")) {
    model.bos_token_id = static_cast<int32_t>(config.Int("bos_token_id", 0, model.vocab_size - 1));
  }
  AddEndTokens(config, model.eos_token_ids);
  if (architecture.published_palu) {
    model.compression = ParsePublishedRanks(config, model);
  } else if (config.Has("kv_compression")) {
    model.compression = ParseKvCompression(config.Object("kv_compression"), model);
  }
  return model;
}

ModelConfig LoadConfig(const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  Require(fs::is_directory(directory, ignored), "{}: no such directory", directory.string());
  const fs::path path = directory / "config.json";
  ModelConfig model = ParseConfig(ReadTextFile(path, kMaxConfigBytes), path.string());
  const fs::path generation = directory / "generation_config.json";
  if (fs::exists(generation, ignored)) {
    const json value = ParseJson(ReadTextFile(generation, kMaxConfigBytes), generation.string());
    AddEndTokens(JsonObject(value, generation.string()), model.eos_token_ids);
  }
  return model;
}

}  // namespace palu
