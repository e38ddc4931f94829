#include "format/tier_picture.h"

#include <fmt/format.h>

#include <algorithm>

namespace palu {
namespace {

std::string Bar(const std::vector<LatentTier>& tiers, int64_t full) {
  std::string bar;
  for (const LatentTier& tier : tiers) {
    bar.append(static_cast<size_t>(tier.width / kTierMultiple), static_cast<char>('0' + tier.bits));
  }
  const auto width = static_cast<size_t>(full / kTierMultiple);
  bar.append(width - std::min(width, bar.size()), '.');
  return bar;
}

std::string Bars(const ProjectionRanks& projection, int64_t full) {
  std::string text;
  for (const std::vector<LatentTier>& tiers : projection.tiers) text += ' ' + Bar(tiers, full);
  return text;
}

}  // namespace

std::vector<std::string> TierPicture(const ModelConfig& config) {
  std::vector<std::string> lines;
  if (!config.compression || !config.compression->tiered) return lines;
  lines.push_back(
      fmt::format("bits per {} latents, most important first; a dot: not stored", kTierMultiple));
  const int64_t rows = config.compression->group_size * config.head_dim;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerRanks ranks = config.Ranks(l);
    if (ranks.shared) {
      const int64_t full = std::min(2 * rows, config.hidden_size);
      lines.push_back(fmt::format("layer {:>2} k+v {}", l, Bars(ranks.k, full)));
      continue;
    }
    const int64_t full = std::min(rows, config.hidden_size);
    lines.push_back(fmt::format("layer {:>2} k   {}", l, Bars(ranks.k, full)));
    lines.push_back(fmt::format("layer {:>2} v   {}", l, Bars(ranks.v, full)));
  }
  return lines;
}

}  // namespace palu
