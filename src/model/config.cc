#include "model/config.h"

#include <numeric>

#include "ops/frequency_split.h"

namespace palu {

std::string_view Name(Family family) {
  switch (family) {
    case Family::kLlama:
      return "llama";
    case Family::kMistral:
      return "mistral";
    case Family::kQwen2:
      return "qwen2";
    case Family::kQwen3:
      return "qwen3";
  }
  return "?";
}

int64_t ProjectionRanks::total() const {
  return std::accumulate(ranks.begin(), ranks.end(), int64_t{0});
}

double ModelConfig::split_tolerance() const {
  const double asked = compression ? compression->split_tolerance : 0;
  return asked > 0 ? asked : kSplitTolerance;
}

LayerRanks ModelConfig::Ranks(int64_t layer) const {
  return compression ? compression->layers.at(static_cast<size_t>(layer)) : LayerRanks{};
}

}  // namespace palu
