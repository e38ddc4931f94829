// A model's architecture, as read from config.json, and how its KV cache is compressed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/latent_quantization.h"
#include "ops/rope_config.h"
#include "tensor/dtype.h"

namespace palu {

enum class Family { kLlama, kMistral, kQwen2, kQwen3 };

std::string_view Name(Family family);  // "llama", "mistral", ...

// One factored projection: KV heads in groups of `group_size`, each with its own rank.
// A projection that stays dense has no ranks.
struct ProjectionRanks {
  std::vector<int64_t> ranks;  // per group; empty: dense
  // Per group, how its latent is cut for storage, widths adding up to the rank. Empty: all latents
  // are stored as KvCompression::quantization says.
  std::vector<std::vector<LatentTier>> tiers = {};

  bool factored() const { return !ranks.empty(); }
  int64_t total() const;
};

struct LayerRanks {
  ProjectionRanks k, v;
  // Keys and values of a group are rebuilt from one latent, which is stored once, with the keys:
  // v has the ranks and tiers of k, and no down-projection.
  bool shared = false;
};

// The `kv_compression` section of config.json (docs/format.md), or what a directory of the
// published Palu code implies.
struct KvCompression {
  std::string method = "palu";
  int version = 1;
  int64_t group_size = 4;         // KV heads per group
  double ratio = 1.0;             // asked for
  std::string search, decompose;  // as on the command line
  int64_t rank_multiple = 32;
  LatentQuantization quantization;
  bool hadamard = false;  // latents are rotated by a flat orthogonal matrix (offline)
  // Fast rotary pairs of a head whose rows of U need the first latents only (rotary_basis.h); 0:
  // the basis is another.
  int64_t rotary_pairs = 0;
  // Largest error of a unit wave that decoding by a frequency split may make
  // (ops/frequency_split.h); 0: kSplitTolerance.
  double split_tolerance = 0;
  bool tiered = false;        // every factored projection has tiers
  double budget = 0;          // bits per element asked for, when tiered
  double predicted_loss = 0;  // rise of the loss per token that the search foresaw, nats
  // The latents' mean is kept apart: down-projections have a bias, and so have reconstructions.
  bool centered = false;
  // Last tokens whose latents a sequence keeps as they were, too, when tiered.
  int64_t recent = 0;
  std::vector<LayerRanks> layers;  // one per layer
  std::string source_model;        // name or path of the dense model
  std::string calibration;         // one human-readable line
};

struct ModelConfig {
  Family family = Family::kLlama;
  std::string model_type;  // as written in the file
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position = 0;
  double rms_norm_eps = 1e-5;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool qkv_bias = false;  // q, k and v have biases
  bool o_bias = false;    // with attention_bias: o has one too
  bool mlp_bias = false;
  bool qk_norm = false;  // RMSNorm over head_dim on q and k before RoPE
  std::optional<int32_t> bos_token_id;
  std::vector<int32_t> eos_token_ids;
  std::optional<KvCompression> compression;

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
  int64_t heads_per_kv() const { return num_heads / num_kv_heads; }
  // KvCompression::split_tolerance, or its default.
  double split_tolerance() const;
  // Ranks of a layer; dense when the model is not compressed.
  LayerRanks Ranks(int64_t layer) const;
};

}  // namespace palu
