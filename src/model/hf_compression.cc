#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "model/hf_config_parts.h"
#include "model/tensor_names.h"
#include "ops/frequency_split.h"

namespace palu {
namespace {

constexpr int64_t kKnownVersion = 4;
constexpr int64_t kMaxVersion = 1 << 30;
constexpr int64_t kMaxMultiple = 1 << 24;
constexpr int64_t kMaxRecent = 4096;

// Absent: not quantised.
LatentQuantization ReadQuantization(const JsonObject& section) {
  LatentQuantization result;
  if (!section.Has("quantization")) return result;
  const JsonObject object = section.Object("quantization");
  result.bits = static_cast<int>(object.Int("bits", 2, 16));
  if (result.bits != 2 && result.bits != 3 && result.bits != 4 && result.bits != 8 &&
      result.bits != 16) {
    object.Mismatch("bits", "2, 3, 4, 8 or 16", std::to_string(result.bits));
  }
  result.group = object.Int("group", 0, kMaxMultiple, 0);
  if (result.group % kLatentMultiple != 0) {
    object.Mismatch("group", fmt::format("a multiple of {}", kLatentMultiple),
                    std::to_string(result.group));
  }
  result.symmetric = object.Bool("symmetric", false);
  result.clip_ratio = object.Positive("clip_ratio", 1.0);
  if (result.clip_ratio > 1) {
    object.Mismatch("clip_ratio", "a number above 0 and up to 1",
                    fmt::format("{}", result.clip_ratio));
  }
  return result;
}

// One list of ranks per projection that `ranks` names; refuses names that are no projection.
std::vector<LayerRanks> ReadRanks(const JsonObject& ranks, const ModelConfig& model,
                                  int64_t max_rank) {
  std::vector<LayerRanks> layers(static_cast<size_t>(model.num_layers));
  std::set<std::string> known;
  for (int64_t layer = 0; layer < model.num_layers; ++layer) {
    LayerRanks& entry = layers[static_cast<size_t>(layer)];
    for (const auto& [name, target] :
         {std::pair{names::KProj(layer), &entry.k}, std::pair{names::VProj(layer), &entry.v}}) {
      target->ranks = ranks.Ints(name, 1, max_rank, false);
      known.insert(name);
    }
  }
  for (const auto& item : ranks.value().items()) {
    if (!known.contains(item.key())) {
      ranks.Mismatch(item.key(),
                     fmt::format("k_proj or v_proj of a layer below {}", model.num_layers),
                     "another module");
    }
  }
  return layers;
}

// Every factored projection must have `groups` ranks.
void RequireGroups(const JsonObject& ranks, const std::vector<LayerRanks>& layers, int64_t groups) {
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (const bool key : {true, false}) {
      const auto& list = key ? layers[layer].k.ranks : layers[layer].v.ranks;
      const auto index = static_cast<int64_t>(layer);
      const std::string name = key ? names::KProj(index) : names::VProj(index);
      const bool dense = list.empty() && !ranks.Has(name);
      if (!dense && static_cast<int64_t>(list.size()) != groups) {
        ranks.Mismatch(name, fmt::format("{} ranks, one per group", groups),
                       std::to_string(list.size()));
      }
    }
  }
}

// Layers whose keys and values are rebuilt from one latent, by index.
void ReadSharedLatents(const JsonObject& section, std::vector<LayerRanks>& layers) {
  constexpr std::string_view kField = "shared_latents";
  for (const int64_t l : section.Ints(kField, 0, std::ssize(layers) - 1, false)) {
    LayerRanks& layer = layers[static_cast<size_t>(l)];
    if (!layer.k.factored() || layer.k.ranks != layer.v.ranks) {
      section.Mismatch(kField, "layers whose keys and values have the same ranks",
                       fmt::format("layer {}", l));
    }
    layer.shared = true;
  }
}

// How one projection's latents are cut into tiers.
void ReadProjectionTiers(const JsonObject& tiers, const std::string& name,
                         ProjectionRanks& projection) {
  const JsonObject entry = tiers.Object(name);
  const auto groups = entry.Ints("per_group", 1, kMaxMultiple, false);
  const auto widths = entry.Ints("widths", kTierMultiple, kMaxMultiple, false);
  const auto bits = entry.Ints("bits", 2, 8, false);
  size_t at = 0;
  for (size_t g = 0; g < groups.size() && g < projection.ranks.size(); ++g) {
    int64_t width = 0;
    std::vector<LatentTier>& list = projection.tiers.emplace_back();
    for (int64_t i = 0; i < groups[g] && at < std::min(widths.size(), bits.size()); ++i, ++at) {
      const auto b = static_cast<int>(bits[at]);
      if (widths[at] % kTierMultiple != 0) {
        entry.Mismatch("widths", fmt::format("multiples of {}", kTierMultiple),
                       std::to_string(widths[at]));
      }
      if (b != 2 && b != 3 && b != 4 && b != 8) {
        entry.Mismatch("bits", "2, 3, 4 or 8", std::to_string(b));
      }
      list.push_back({widths[at], b});
      width += widths[at];
    }
    if (width != projection.ranks[g] || std::ssize(list) != groups[g]) {
      entry.Mismatch("widths",
                     fmt::format("{} widths that add up to the rank of group {}, {}", groups[g], g,
                                 projection.ranks[g]),
                     fmt::format("{} that add up to {}", list.size(), width));
    }
  }
  if (groups.size() != projection.ranks.size() || at != widths.size() || at != bits.size()) {
    entry.Mismatch("per_group",
                   fmt::format("{} numbers that add up to the {} widths and {} bits",
                               projection.ranks.size(), widths.size(), bits.size()),
                   fmt::format("{} that add up to {}", groups.size(), at));
  }
}

void ReadTiers(const JsonObject& section, KvCompression& result) {
  result.tiered = section.Has("tiers");
  if (!result.tiered) return;
  result.budget = section.Positive("budget");
  result.centered = section.Bool("centered", false);
  result.recent = section.Int("recent", 0, kMaxRecent, 0);
  result.predicted_loss = section.Positive("predicted_loss", 0.0);
  const JsonObject tiers = section.Object("tiers");
  for (size_t l = 0; l < result.layers.size(); ++l) {
    LayerRanks& layer = result.layers[l];
    const auto index = static_cast<int64_t>(l);
    if (layer.k.factored()) ReadProjectionTiers(tiers, names::KProj(index), layer.k);
    if (layer.shared) {
      layer.v.tiers = layer.k.tiers;
    } else if (layer.v.factored()) {
      ReadProjectionTiers(tiers, names::VProj(index), layer.v);
    }
  }
}

// Kept rank over full rank, dense projections counted as full.
double KeptRatio(const std::vector<LayerRanks>& layers, int64_t full) {
  int64_t kept = 0;
  for (const LayerRanks& layer : layers) {
    for (const auto* side : {&layer.k, &layer.v}) kept += side->factored() ? side->total() : full;
  }
  return static_cast<double>(kept) / static_cast<double>(2 * full * std::ssize(layers));
}

}  // namespace

KvCompression ParseKvCompression(const JsonObject& section, const ModelConfig& model) {
  KvCompression result;
  result.method = section.String("method");
  if (result.method != "palu") section.Mismatch("method", "\"palu\"", Describe(result.method));
  const int64_t version = section.Int("version", 1, kMaxVersion);
  if (version > kKnownVersion) {
    section.Mismatch("version",
                     fmt::format("a version this program knows (up to {})", kKnownVersion),
                     fmt::format("{}, written by a newer program", version));
  }
  result.version = static_cast<int>(version);
  result.group_size = section.Int("group_size", 1, model.num_kv_heads);
  if (model.num_kv_heads % result.group_size != 0) {
    section.Mismatch("group_size", fmt::format("a divisor of the {} KV heads", model.num_kv_heads),
                     std::to_string(result.group_size));
  }
  result.ratio = section.Positive("ratio", 1.0);
  if (result.ratio > 1.0) {
    section.Mismatch("ratio", "a number above 0 and up to 1", fmt::format("{}", result.ratio));
  }
  const int64_t full = result.group_size * model.head_dim;
  result.rank_multiple = section.Int("rank_multiple", 1, kMaxMultiple, 1);
  result.search = section.String("search", "");
  result.decompose = section.String("decompose", "");
  result.quantization = ReadQuantization(section);
  result.hadamard = section.Bool("hadamard", false);
  result.rotary_pairs = section.Int("rotary_pairs", 0, model.head_dim / 2, 0);
  if (section.Has("split_tolerance")) {
    result.split_tolerance = section.Positive("split_tolerance");
    if (result.split_tolerance < kLeastSplitTolerance ||
        result.split_tolerance > kMostSplitTolerance) {
      section.Mismatch(
          "split_tolerance",
          fmt::format("a number from {} to {}", kLeastSplitTolerance, kMostSplitTolerance),
          fmt::format("{}", result.split_tolerance));
    }
  }
  result.source_model = section.String("source_model", "");
  result.calibration = section.String("calibration", "");
  const JsonObject ranks = section.Object("ranks");
  // One latent for keys and values may be as wide as both.
  const bool shared = section.Has("shared_latents");
  result.layers = ReadRanks(ranks, model, shared ? 2 * full : full);
  RequireGroups(ranks, result.layers, model.num_kv_heads / result.group_size);
  if (shared) ReadSharedLatents(section, result.layers);
  ReadTiers(section, result);
  return result;
}

KvCompression ParsePublishedRanks(const JsonObject& config, const ModelConfig& model) {
  const JsonObject ranks = config.Object("head_wise_ranks");
  int64_t groups = 1;  // a list's length says how many there are; all must agree
  if (!ranks.value().empty()) {
    const auto first = ranks.value().begin();
    groups = first->is_array() ? static_cast<int64_t>(first->size()) : 0;
    if (groups == 0 || model.num_kv_heads % groups != 0) {
      ranks.Mismatch(
          first.key(),
          fmt::format("a list of ranks whose length divides the {} KV heads", model.num_kv_heads),
          Describe(*first));
    }
  }
  KvCompression result;
  result.group_size = model.num_kv_heads / groups;
  result.rank_multiple = 1;
  result.layers = ReadRanks(ranks, model, result.group_size * model.head_dim);
  RequireGroups(ranks, result.layers, groups);
  result.ratio = KeptRatio(result.layers, model.kv_size());
  result.source_model = config.String("original_model_name_or_path", "");
  return result;
}

}  // namespace palu
