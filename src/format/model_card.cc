#include "format/model_card.h"

#include <fmt/ranges.h>

#include <cassert>

#include "base/error.h"
#include "format/tier_picture.h"

namespace palu {
namespace {

std::string Cell(std::string_view text) {
  std::string cell;
  for (const char c : text) {
    if (c == '|') cell += '\\';
    cell += c == '\n' || c == '\r' ? ' ' : c;
  }
  return cell;
}

std::string RanksCell(const ProjectionRanks& ranks) {
  return ranks.factored() ? fmt::format("{}", fmt::join(ranks.ranks, ", ")) : "dense";
}

// Numbers cached per token and layer side, dense sides at full width.
double KeptPercent(const ModelConfig& config) {
  int64_t kept = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerRanks ranks = config.Ranks(layer);
    kept += ranks.k.factored() ? ranks.k.total() : config.kv_size();
    if (ranks.shared) continue;
    kept += ranks.v.factored() ? ranks.v.total() : config.kv_size();
  }
  return 100.0 * static_cast<double>(kept) /
         static_cast<double>(2 * config.num_layers * config.kv_size());
}

}  // namespace

std::string MakeModelCard(const std::string& title, const ModelConfig& config,
                          const Figures& figures) {
  assert(config.compression.has_value());
  const KvCompression& kv = *config.compression;
  std::string card = fmt::format(
      "---\ntags:\n- palu\n- kv-cache-compression\n---\n\n# {}\n\n"
      "The key and value projections of this model are factored (Palu, low-rank projection), so "
      "that its KV\ncache stores latents of {:.1f} % of the numbers the dense cache stores.\n\n",
      Cell(title), KeptPercent(config));
  const auto line = [&card](std::string_view what, const std::string& value) {
    if (!value.empty()) card += fmt::format("- {}: {}\n", what, Cell(value));
  };
  line("Source model", kv.source_model);
  line("Method", fmt::format("{}, format version {}", kv.method, kv.version));
  line("KV heads per group", std::to_string(kv.group_size));
  if (kv.tiered) {
    line("Bits per element asked for", fmt::format("{}", kv.budget));
  } else {
    line("Ratio asked for", fmt::format("{}", kv.ratio));
  }
  line("Rank search", kv.search);
  line("Decomposition", kv.decompose);
  line("Calibration", kv.calibration);
  if (!figures.empty()) {
    card += "\n## Measured\n\n| figure | value |\n|---|---|\n";
    for (const auto& [what, value] : figures) {
      card += fmt::format("| {} | {} |\n", Cell(what), Cell(value));
    }
  }
  card += fmt::format("\n## Ranks\n\nOf {} per group at full width.\n\n",
                      kv.group_size * config.head_dim);
  card += "| layer | keys, per group | values, per group |\n|---|---|---|\n";
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerRanks ranks = config.Ranks(layer);
    card += fmt::format("| {} | {} | {} |\n", layer, RanksCell(ranks.k),
                        ranks.shared ? "the keys' latents" : RanksCell(ranks.v));
  }
  if (kv.tiered) card += fmt::format("\n```\n{}\n```\n", fmt::join(TierPicture(config), "\n"));
  return card;
}

}  // namespace palu
