#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/log.h"
#include "common.h"
#include "format/tier_picture.h"
#include "runtime/cache_layout.h"

namespace palu::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kContexts[] = {4096, 32768, 131072};

struct Options {
  CommonOptions common;
  std::string model;
  CacheOptions cache;
  bool json = false;
};

Json Projection(const ModelConfig& config, const ProjectionRanks& projection) {
  if (!projection.factored()) {
    return {{"form", "dense"}, {"groups", config.num_kv_heads}, {"width", config.kv_size()}};
  }
  Json json = {{"form", "low-rank"},
               {"groups", projection.ranks.size()},
               {"ranks", projection.ranks},
               {"width", projection.total()}};
  for (const std::vector<LatentTier>& tiers : projection.tiers) {
    Json group = Json::array();
    for (const LatentTier& tier : tiers) {
      group.push_back({{"width", tier.width}, {"bits", tier.bits}});
    }
    json["tiers"].push_back(group);
  }
  return json;
}

// Bytes for a context length, whole blocks.
double GiB(double bytes) { return bytes / (1 << 30); }

Json Describe(const Model& model, const CacheLayout& layout) {
  const ModelConfig& c = model.config();
  Json json = {{"model", model.path().string()}, {"family", Name(c.family)},
               {"hidden_size", c.hidden_size},   {"intermediate_size", c.intermediate_size},
               {"layers", c.num_layers},         {"heads", c.num_heads},
               {"kv_heads", c.num_kv_heads},     {"head_dim", c.head_dim},
               {"vocab_size", c.vocab_size},     {"max_position", c.max_position},
               {"rope_theta", c.rope.theta},     {"compressed", c.compression.has_value()}};
  if (c.compression) {
    json["method"] = c.compression->method;
    json["group_size"] = c.compression->group_size;
    if (c.compression->tiered) {
      json["budget"] = c.compression->budget;
      json["predicted_loss"] = c.compression->predicted_loss;
      json["tiers"] = TierPicture(c);
    } else {
      json["target_ratio"] = c.compression->ratio;
    }
    json["search"] = c.compression->search;
    json["decompose"] = c.compression->decompose;
    json["hadamard"] = c.compression->hadamard;
    json["calibration"] = c.compression->calibration;
  }
  json["projections"] = Json::array();
  for (int64_t l = 0; l < c.num_layers; ++l) {
    const LayerRanks ranks = c.Ranks(l);
    json["projections"].push_back(
        {{"layer", l}, {"k", Projection(c, ranks.k)}, {"v", Projection(c, ranks.v)}});
    if (ranks.shared) json["projections"].back()["shared_latents"] = true;
  }
  const double dense = static_cast<double>(DenseBytesPerToken(c));
  Json kv = {{"cache_type", std::string(Name(layout.dtype()))},
             {"bytes_per_token_dense_fp16", dense},
             {"bytes_per_token", layout.bytes_per_token()},
             {"bits_per_element", layout.bits_per_element()},
             {"ratio", layout.bytes_per_token() / dense},
             {"block_tokens", kBlockTokens},
             {"block_bytes", layout.block_bytes()},
             {"window_tokens", layout.recent()},
             {"window_bytes", layout.window_bytes()},
             {"layout", CacheJson(layout, layout.kernel())}};
  for (const int64_t context : kContexts) {
    kv["gib"][fmt::format("{}K", context / 1024)] = {
        {"dense_fp16", GiB(dense * static_cast<double>(context))},
        {"stored", GiB(static_cast<double>(layout.BytesFor(context)))}};
  }
  json["kv_cache"] = kv;
  int64_t total = 0;
  for (const auto& [weight_class, bytes] : model.BytesByClass()) {
    json["weight_bytes"][std::string(Name(weight_class))] = bytes;
    total += bytes;
  }
  json["weight_bytes"]["total"] = total;
  return json;
}

std::string RankText(const Json& projection) {
  if (projection["form"] == "dense") return "dense";
  return fmt::format("{}", fmt::join(projection["ranks"].get<std::vector<int64_t>>(), " "));
}

void PrintText(const Json& json) {
  fmt::print("{}: {}, {} layers, hidden {}, {} query and {} KV heads of {}, vocabulary {}\n",
             json["model"].get<std::string>(), json["family"].get<std::string>(),
             json["layers"].dump(), json["hidden_size"].dump(), json["heads"].dump(),
             json["kv_heads"].dump(), json["head_dim"].dump(), json["vocab_size"].dump());
  if (json["compressed"].get<bool>()) {
    const std::string asked = json.contains("budget")
                                  ? "budget " + json["budget"].dump() + " bits"
                                  : "target ratio " + json["target_ratio"].dump();
    fmt::print("compressed: group size {}, {}, search {}, decomposition {}\n",
               json["group_size"].dump(), asked, json["search"].get<std::string>(),
               json["decompose"].get<std::string>());
  }
  fmt::print("\n{:>5}  {:<30} {:<30}\n", "layer", "k ranks by group", "v ranks by group");
  for (const Json& p : json["projections"]) {
    fmt::print("{:>5}  {:<30} {:<30}\n", p["layer"].dump(), RankText(p["k"]),
               p.contains("shared_latents") ? "the keys' latents" : RankText(p["v"]));
  }
  if (json.contains("tiers")) {
    fmt::print("\n{}\n", fmt::join(json["tiers"].get<std::vector<std::string>>(), "\n"));
  }
  const Json& kv = json["kv_cache"];
  fmt::print(
      "\nKV cache ({}): {:.1f} bytes per token, {:.1f} dense fp16: ratio {:.4f}, {:.3f} bits "
      "per element\n",
      kv["cache_type"].get<std::string>(), kv["bytes_per_token"].get<double>(),
      kv["bytes_per_token_dense_fp16"].get<double>(), kv["ratio"].get<double>(),
      kv["bits_per_element"].get<double>());
  const Json& layout = kv["layout"];
  fmt::print(
      "  {} latents at {} bits{}, {} plain elements; bytes per token: {} codes, {} scales, {} "
      "zeros, {} unquantised, {} padding; keys from {}\n",
      layout["latents_per_token"].dump(), layout["latent_bits"].dump(),
      json.value("hadamard", false) ? " (rotated)" : "", layout["plain_per_token"].dump(),
      layout["bytes"]["codes"].dump(), layout["bytes"]["scales"].dump(),
      layout["bytes"]["zeros"].dump(), layout["bytes"]["elements"].dump(),
      layout["bytes"]["padding"].dump(), layout["kernel"].get<std::string>());
  if (kv["window_bytes"] > 0) {
    fmt::print(
        "  a window of the last {} tokens: {} bytes per sequence, {} per token at {} tokens\n",
        kv["window_tokens"].dump(), kv["window_bytes"].dump(), layout["bytes"]["recent"].dump(),
        kStatedContext);
  }
  for (const auto& [context, gib] : kv["gib"].items()) {
    fmt::print("  {:>4} tokens: {:.4f} GiB, {:.4f} dense fp16\n", context,
               gib["stored"].get<double>(), gib["dense_fp16"].get<double>());
  }
  fmt::print("\nweights\n");
  for (const auto& [name, bytes] : json["weight_bytes"].items()) {
    fmt::print("  {:<10} {:>14} bytes\n", name, bytes.get<int64_t>());
  }
}

void Run(const Options& options) {
  SetQuiet(options.common.quiet);
  const Model model = Model::Load(options.model);
  const CacheLayout layout(model.config(), MakeCacheFormat(options.cache));
  const Json json = Describe(model, layout);
  options.json ? PrintJson(json) : PrintText(json);
}

}  // namespace

void AddInspect(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "Sizes, ranks and KV-cache bytes of a model directory");
  command->add_option("MODEL", options->model, "model directory, dense or compressed")->required();
  AddCacheFormat(*command, options->cache);
  command->add_flag("--json", options->json, "print JSON");
  AddCommon(*command, options->common, false);
  command->callback([options] { Run(*options); });
}

}  // namespace palu::cli
