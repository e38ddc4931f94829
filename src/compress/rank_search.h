// How many dimensions each group of KV heads keeps (Palu, section 3.3: automatic rank allocation by
// Fisher information).
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace palu {

enum class RankSearch { kUniform, kFisher, kFisherUniform };

std::string_view Name(RankSearch search);  // "uniform", "fisher", "fisher_uniform"
std::optional<RankSearch> ParseRankSearch(std::string_view name);

// Mean over the entries of one head's rows of F = sqrt(mean over windows of (dloss/dW)^2).
struct LayerFisher {
  std::vector<double> k, v;  // per KV head, [n_kv]
};

struct RankSearchOptions {
  RankSearch search = RankSearch::kFisherUniform;
  double ratio = 0.5;          // kept rank over full rank, keys and values of all layers together
  int64_t group_size = 4;      // KV heads per group, g
  int64_t rank_multiple = 32;  // every rank becomes a multiple of this, at least one
};

// The published code's rank multiple: 32, and 16 for groups narrower than 128.
constexpr int64_t DefaultRankMultiple(int64_t group_width) { return group_width < 128 ? 16 : 32; }

// Ranks per layer, projection and group (n_kv / g groups), none above the group's width g*d:
//   uniform         ratio * g*d everywhere
//   fisher          proportional to a group's mean Fisher information, floored and capped at g*d;
//                   what is left of the budget goes out one by one in order of increasing
//                   (exact - floored) rank, round after round
//   fisher_uniform  the same with one group per projection, whose rank is then divided evenly
// then rounded to the nearest multiple, halves to the even one. `fisher` has one entry per layer
// and is ignored by `uniform`. Throws Error for a ratio outside (0, 1], a group size that does not
// divide the KV heads, a multiple below 1, or Fisher values that are missing or not finite.
std::vector<LayerRanks> SearchRanks(const ModelConfig& model, const RankSearchOptions& options,
                                    std::span<const LayerFisher> fisher);

// A projection whose every group keeps its full width (g*d) gains nothing from factors: drops its
// ranks, which makes it dense.
void MakeFullWidthDense(const ModelConfig& model, int64_t group_size,
                        std::vector<LayerRanks>& layers);

// Kept rank over full rank; a dense projection counts in full.
double KeptFraction(const ModelConfig& model, std::span<const LayerRanks> layers);

}  // namespace palu
