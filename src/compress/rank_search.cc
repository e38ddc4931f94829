#include "compress/rank_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace palu {
namespace {

constexpr RankSearch kSearches[] = {RankSearch::kUniform, RankSearch::kFisher,
                                    RankSearch::kFisherUniform};

void Validate(const ModelConfig& model, const RankSearchOptions& options) {
  Require(options.ratio > 0.0 && options.ratio <= 1.0,
          "rank search: the ratio must be above 0 and at most 1, found {}", options.ratio);
  Require(options.group_size >= 1 && model.num_kv_heads % options.group_size == 0,
          "rank search: a group size of {} does not divide the model's {} KV heads",
          options.group_size, model.num_kv_heads);
  Require(options.rank_multiple >= 1, "rank search: the rank multiple must be at least 1, found {}",
          options.rank_multiple);
}

void Validate(const ModelConfig& model, std::span<const LayerFisher> fisher) {
  Require(static_cast<int64_t>(fisher.size()) == model.num_layers,
          "rank search: expected Fisher information of {} layers, found {}", model.num_layers,
          fisher.size());
  for (size_t layer = 0; layer < fisher.size(); ++layer) {
    for (const auto* heads : {&fisher[layer].k, &fisher[layer].v}) {
      Require(static_cast<int64_t>(heads->size()) == model.num_kv_heads,
              "rank search: layer {}: expected Fisher information of {} KV heads, found {}", layer,
              model.num_kv_heads, heads->size());
      for (double mean : *heads) {
        Require(std::isfinite(mean) && mean >= 0.0,
                "rank search: layer {}: Fisher information is {}", layer, mean);
      }
    }
  }
}

// Group means in the order k then v, layer by layer. Heads are equally large, so the mean over a
// group's entries is the mean of its heads' means.
std::vector<double> GroupMeans(std::span<const LayerFisher> fisher, int64_t group_size) {
  std::vector<double> means;
  for (const LayerFisher& layer : fisher) {
    for (const auto* heads : {&layer.k, &layer.v}) {
      for (auto head = heads->begin(); head != heads->end(); head += group_size) {
        means.push_back(std::accumulate(head, head + group_size, 0.0) /
                        static_cast<double>(group_size));
      }
    }
  }
  return means;
}

// Deals `budget` over groups of equal width in proportion to their means. A fractional budget is
// rounded up: the last fraction of a rank goes out as a whole one.
std::vector<int64_t> Deal(const std::vector<double>& means, int64_t width, double budget) {
  const double sum = std::accumulate(means.begin(), means.end(), 0.0);
  Require(sum > 0.0, "rank search: the Fisher information is zero everywhere");
  std::vector<int64_t> ranks(means.size());
  std::vector<double> unserved(means.size());  // exact - floored
  for (size_t i = 0; i < means.size(); ++i) {
    const double exact = budget * means[i] / sum;
    ranks[i] = std::min(width, static_cast<int64_t>(std::floor(exact)));
    unserved[i] = exact - static_cast<double>(ranks[i]);
  }
  std::vector<size_t> order(means.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return unserved[a] < unserved[b]; });

  const auto total =
      std::min(static_cast<int64_t>(std::ceil(budget)), width * static_cast<int64_t>(ranks.size()));
  int64_t left = total - std::accumulate(ranks.begin(), ranks.end(), int64_t{0});
  while (left > 0) {
    for (size_t i : order) {
      if (left == 0) break;
      if (ranks[i] == width) continue;
      ++ranks[i];
      --left;
    }
  }
  return ranks;
}

// Nearest multiple, halves to the even one (nearbyint in the default rounding mode), at least one
// multiple, at most the width.
int64_t RoundRank(double rank, int64_t multiple, int64_t width) {
  const auto blocks = static_cast<int64_t>(std::nearbyint(rank / static_cast<double>(multiple)));
  return std::min(width, std::max<int64_t>(1, blocks) * multiple);
}

}  // namespace

std::string_view Name(RankSearch search) {
  switch (search) {
    case RankSearch::kUniform:
      return "uniform";
    case RankSearch::kFisher:
      return "fisher";
    case RankSearch::kFisherUniform:
      return "fisher_uniform";
  }
  return "?";
}

std::optional<RankSearch> ParseRankSearch(std::string_view name) {
  for (RankSearch search : kSearches) {
    if (name == Name(search)) return search;
  }
  return std::nullopt;
}

std::vector<LayerRanks> SearchRanks(const ModelConfig& model, const RankSearchOptions& options,
                                    std::span<const LayerFisher> fisher) {
  Validate(model, options);
  const int64_t width = options.group_size * model.head_dim;
  const int64_t groups = model.num_kv_heads / options.group_size;  // of one projection
  const int64_t projections = 2 * model.num_layers;
  const double budget = static_cast<double>(projections * model.kv_size()) * options.ratio;

  std::vector<double> exact;  // per group, before rounding; k then v, layer by layer
  if (options.search == RankSearch::kUniform) {
    exact.assign(projections * groups, static_cast<double>(width) * options.ratio);
  } else {
    Validate(model, fisher);
    const bool joint = options.search == RankSearch::kFisherUniform;
    const int64_t dealt_heads = joint ? model.num_kv_heads : options.group_size;
    const int64_t shares = joint ? groups : 1;
    for (int64_t rank :
         Deal(GroupMeans(fisher, dealt_heads), dealt_heads * model.head_dim, budget)) {
      const int64_t share = rank / shares;  // integer division, as the published search does
      exact.insert(exact.end(), shares, static_cast<double>(share));
    }
  }

  std::vector<LayerRanks> layers(model.num_layers);
  auto next = exact.begin();
  for (LayerRanks& layer : layers) {
    for (ProjectionRanks* projection : {&layer.k, &layer.v}) {
      for (int64_t group = 0; group < groups; ++group) {
        projection->ranks.push_back(RoundRank(*next++, options.rank_multiple, width));
      }
    }
  }
  return layers;
}

void MakeFullWidthDense(const ModelConfig& model, int64_t group_size,
                        std::vector<LayerRanks>& layers) {
  const int64_t width = group_size * model.head_dim;
  for (LayerRanks& layer : layers) {
    for (ProjectionRanks* projection : {&layer.k, &layer.v}) {
      auto& ranks = projection->ranks;
      if (std::all_of(ranks.begin(), ranks.end(), [&](int64_t r) { return r >= width; })) {
        ranks.clear();
      }
    }
  }
}

double KeptFraction(const ModelConfig& model, std::span<const LayerRanks> layers) {
  int64_t kept = 0;
  for (const LayerRanks& layer : layers) {
    for (const ProjectionRanks* projection : {&layer.k, &layer.v}) {
      if (layer.shared && projection == &layer.v) continue;
      kept += projection->factored() ? projection->total() : model.kv_size();
    }
  }
  return static_cast<double>(kept) /
         static_cast<double>(2 * static_cast<int64_t>(layers.size()) * model.kv_size());
}

}  // namespace palu
