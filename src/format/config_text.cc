#include "format/config_text.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json_object.h"
#include "model/tensor_names.h"

namespace palu {
namespace {

using nlohmann::ordered_json;

// Keeps the keys' order; ParseJson has the clear errors.
ordered_json ParseOrdered(std::string_view text, std::string_view where) {
  const nlohmann::json checked = ParseJson(text, where);
  [[maybe_unused]] const JsonObject object(checked, where);  // refuses what is no object
  return ordered_json::parse(text);
}

std::string_view ArchitectureName(Family family) {
  switch (family) {
    case Family::kLlama:
      return "LlamaForCausalLM";
    case Family::kMistral:
      return "MistralForCausalLM";
    case Family::kQwen2:
      return "Qwen2ForCausalLM";
    case Family::kQwen3:
      return "Qwen3ForCausalLM";
  }
  return "?";
}

std::string_view TorchName(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "float64";
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
  }
  return "?";
}

ordered_json TiersOf(const ProjectionRanks& projection) {
  std::vector<int64_t> per_group, widths, bits;
  for (const std::vector<LatentTier>& tiers : projection.tiers) {
    per_group.push_back(std::ssize(tiers));
    for (const LatentTier& tier : tiers) {
      widths.push_back(tier.width);
      bits.push_back(tier.bits);
    }
  }
  return {{"per_group", per_group}, {"widths", widths}, {"bits", bits}};
}

void AddTiers(const KvCompression& compression, ordered_json& section) {
  section["budget"] = compression.budget;
  section["centered"] = compression.centered;
  if (compression.recent > 0) section["recent"] = compression.recent;
  if (compression.predicted_loss > 0) section["predicted_loss"] = compression.predicted_loss;
  ordered_json tiers = ordered_json::object();
  std::vector<int64_t> shared;
  for (size_t i = 0; i < compression.layers.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    const LayerRanks& entry = compression.layers[i];
    if (entry.shared) shared.push_back(layer);
    if (entry.k.factored()) tiers[names::KProj(layer)] = TiersOf(entry.k);
    if (entry.v.factored() && !entry.shared) tiers[names::VProj(layer)] = TiersOf(entry.v);
  }
  if (!shared.empty()) section["shared_latents"] = shared;
  section["tiers"] = tiers;
}

}  // namespace

std::string WithCompression(std::string_view text, std::string_view where,
                            const KvCompression& compression) {
  ordered_json config = ParseOrdered(text, where);
  Require(!config.contains("kv_compression"), "{}: field kv_compression: expected none, found one",
          where);
  ordered_json ranks = ordered_json::object();
  for (size_t i = 0; i < compression.layers.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    const LayerRanks& entry = compression.layers[i];
    if (entry.k.factored()) ranks[names::KProj(layer)] = entry.k.ranks;
    if (entry.v.factored()) ranks[names::VProj(layer)] = entry.v.ranks;
  }
  config["kv_compression"] = {
      {"method", compression.method},
      {"version", compression.version},
      {"group_size", compression.group_size},
      {"ratio", compression.ratio},
      {"search", compression.search},
      {"decompose", compression.decompose},
      {"rank_multiple", compression.rank_multiple},
      {"hadamard", compression.hadamard},
      {"source_model", compression.source_model},
      {"calibration", compression.calibration},
      {"ranks", ranks},
  };
  if (compression.rotary_pairs > 0) {
    config["kv_compression"]["rotary_pairs"] = compression.rotary_pairs;
  }
  if (compression.split_tolerance > 0) {
    config["kv_compression"]["split_tolerance"] = compression.split_tolerance;
  }
  if (compression.tiered) AddTiers(compression, config["kv_compression"]);
  const LatentQuantization& quantization = compression.quantization;
  if (quantization.enabled()) {
    config["kv_compression"]["quantization"] = {
        {"bits", quantization.bits},
        {"group", quantization.group},
        {"symmetric", quantization.symmetric},
        {"clip_ratio", quantization.clip_ratio},
    };
  }
  return config.dump(2) + "\n";
}

std::string WithoutCompression(std::string_view text, std::string_view where, Family family,
                               std::optional<DType> dtype) {
  ordered_json config = ParseOrdered(text, where);
  for (const char* key :
       {"kv_compression", "head_wise_ranks", "original_model_name_or_path", "auto_map"}) {
    config.erase(key);
  }
  config["model_type"] = Name(family);
  config["architectures"] = {ArchitectureName(family)};
  if (dtype) config[config.contains("dtype") ? "dtype" : "torch_dtype"] = TorchName(*dtype);
  return config.dump(2) + "\n";
}

}  // namespace palu
