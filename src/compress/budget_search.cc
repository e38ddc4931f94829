#include "compress/budget_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace palu {
namespace {

struct UnitPlan {
  std::vector<LatentTier> tiers;
  double bits = 0, loss = 0;
};

// The bits of all blocks of one unit that minimise loss + price * stored bits, by dynamic
// programming over blocks and bits. Bits never rise from one block to the next.
class UnitPlanner {
 public:
  UnitPlanner(const LatentEnergies& energies, const BudgetOptions& options) : options_(options) {
    const auto block = static_cast<size_t>(options.block);
    for (size_t begin = 0; begin < energies.size(); begin += block) {
      double sum = 0;
      for (size_t i = begin; i < std::min(energies.size(), begin + block); ++i) sum += energies[i];
      blocks_.push_back(sum / 2);
    }
  }

  UnitPlan Plan(double price) const {
    const size_t choices = options_.bits.size() + 1;  // the last: nothing stored
    std::vector<std::vector<size_t>> from(blocks_.size(), std::vector<size_t>(choices));
    std::vector<double> cost(choices, std::numeric_limits<double>::infinity());
    for (size_t c = 0; c + 1 < choices; ++c) cost[c] = price * kTierBits + Cost(0, c, price);
    for (size_t b = 1; b < blocks_.size(); ++b) {
      std::vector<double> next(choices);
      for (size_t c = 0; c < choices; ++c) {
        const double start = c + 1 < choices ? price * kTierBits : 0;
        size_t best = c;
        for (size_t before = 0; before < c; ++before) {
          if (cost[before] + start < cost[best] + (best == c ? 0 : start)) best = before;
        }
        from[b][c] = best;
        next[c] = cost[best] + (best == c ? 0 : start) + Cost(b, c, price);
      }
      cost = std::move(next);
    }
    auto choice = static_cast<size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin());
    std::vector<size_t> path(blocks_.size());
    for (size_t b = blocks_.size(); b-- > 0; choice = from[b][choice]) path[b] = choice;
    return Collect(path);
  }

 private:
  static constexpr double kTierBits = 8;  // a tier's scale

  int Bits(size_t choice) const {
    return choice < options_.bits.size() ? options_.bits[choice] : 0;
  }
  double Loss(size_t block, size_t choice) const {
    const int bits = Bits(choice);
    return blocks_[block] * (bits > 0 ? QuantizerDistortion(bits) : options_.truncation_price);
  }
  double Cost(size_t block, size_t choice, double price) const {
    return Loss(block, choice) + price * static_cast<double>(options_.block * Bits(choice));
  }

  UnitPlan Collect(const std::vector<size_t>& path) const {
    UnitPlan plan;
    for (size_t b = 0; b < path.size(); ++b) {
      plan.loss += Loss(b, path[b]);
      const int bits = Bits(path[b]);
      if (bits == 0) continue;
      if (plan.tiers.empty() || plan.tiers.back().bits != bits) {
        plan.tiers.push_back({0, bits});
        plan.bits += kTierBits;
      }
      plan.tiers.back().width += options_.block;
      plan.bits += static_cast<double>(bits * options_.block);
    }
    return plan;
  }

  const BudgetOptions& options_;
  std::vector<double> blocks_;  // loss when nothing of a block is stored
};

struct LayerPlanner {
  std::vector<UnitPlanner> k, v, shared;
};

class Search {
 public:
  Search(std::span<const std::vector<GroupChoices>> layers, const BudgetOptions& options)
      : options_(options) {
    for (const std::vector<GroupChoices>& groups : layers) {
      LayerPlanner& layer = layers_.emplace_back();
      for (const GroupChoices& group : groups) {
        layer.k.emplace_back(group.separate_k, options);
        layer.v.emplace_back(group.separate_v, options);
        layer.shared.emplace_back(group.shared, options);
      }
    }
  }

  BudgetPlan Plan(double price) const {
    BudgetPlan plan;
    for (const LayerPlanner& layer : layers_) AddLayer(layer, price, plan);
    return plan;
  }

 private:
  void AddLayer(const LayerPlanner& layer, double price, BudgetPlan& plan) const {
    std::vector<GroupPlan> separate, shared;
    UnitPlan separate_sum, shared_sum;
    const auto add = [](UnitPlan unit, UnitPlan& sum) {
      sum.bits += unit.bits;
      sum.loss += unit.loss;
      return std::move(unit.tiers);
    };
    for (size_t g = 0; g < layer.k.size(); ++g) {
      GroupPlan both{.shared = false, .k = add(layer.k[g].Plan(price), separate_sum), .v = {}};
      both.v = add(layer.v[g].Plan(price), separate_sum);
      separate.push_back(std::move(both));
      shared.push_back(
          {.shared = true, .k = add(layer.shared[g].Plan(price), shared_sum), .v = {}});
    }
    const bool share = options_.allow_shared && (!options_.allow_separate ||
                                                 shared_sum.loss + price * shared_sum.bits <
                                                     separate_sum.loss + price * separate_sum.bits);
    const UnitPlan& sum = share ? shared_sum : separate_sum;
    plan.bits_per_token += sum.bits;
    plan.predicted_loss += sum.loss;
    plan.layers.push_back(share ? std::move(shared) : std::move(separate));
  }

  const BudgetOptions& options_;
  std::vector<LayerPlanner> layers_;
};

}  // namespace

double QuantizerDistortion(int bits) {
  // Signal to noise of the best uniform quantiser of a normal variable: 9.25, 14.27, 19.38 and
  // 40.34 dB (Jayant and Noll, Digital Coding of Waveforms, 1984, table 4.1).
  switch (bits) {
    case 2:
      return 0.1188;
    case 3:
      return 0.03744;
    case 4:
      return 0.01154;
    case 8:
      return 0.0000925;
    default:
      Fail("tiers: expected 2, 3, 4 or 8 bits, found {}", bits);
  }
}

BudgetPlan SearchBudget(std::span<const std::vector<GroupChoices>> layers,
                        const BudgetOptions& options) {
  Require(options.block > 0 && options.block % kTierMultiple == 0,
          "tier block: expected a multiple of {}, found {}", kTierMultiple, options.block);
  Require(options.allow_shared || options.allow_separate,
          "budget: expected shared or separate latents to be allowed");
  const Search search(layers, options);
  double low = 1e-18, high = 1e6;  // per bit: from buying everything to buying the least
  BudgetPlan plan = search.Plan(high);
  Require(
      plan.bits_per_token <= options.bits_per_token,
      "budget: {:.0f} bits per token do not hold one block of {} latents per unit: expected {:.0f} "
      "or more",
      options.bits_per_token, options.block, plan.bits_per_token);
  for (int i = 0; i < 80; ++i) {
    const double price = std::sqrt(low * high);
    BudgetPlan tried = search.Plan(price);
    if (tried.bits_per_token <= options.bits_per_token) {
      high = price;
      plan = std::move(tried);
    } else {
      low = price;
    }
  }
  return plan;
}

}  // namespace palu
