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
  double bits = 0, loss = 0, work = 0;
};

// The bits of all blocks of one unit that minimise loss + price * (stored bits + rate * work), by
// dynamic programming over blocks and bits. Bits never rise from one block to the next.
class UnitPlanner {
 public:
  UnitPlanner(const LatentEnergies& energies, const DecodeCost& cost, const BudgetOptions& options)
      : options_(options), cost_(cost) {
    const auto block = static_cast<size_t>(options.block);
    for (size_t begin = 0; begin < energies.size(); begin += block) {
      double sum = 0;
      for (size_t i = begin; i < std::min(energies.size(), begin + block); ++i) sum += energies[i];
      blocks_.push_back(sum / 2);
    }
  }

  UnitPlan Plan(double price, double rate) const {
    const double tier_price = price * (kTierBits + rate * cost_.tier);
    const double latent_price = price * rate * cost_.latent;
    const size_t choices = options_.bits.size() + 1;  // the last: nothing stored
    std::vector<std::vector<size_t>> from(blocks_.size(), std::vector<size_t>(choices));
    std::vector<double> cost(choices, std::numeric_limits<double>::infinity());
    for (size_t c = 0; c + 1 < choices; ++c) cost[c] = tier_price + Cost(0, c, price, latent_price);
    for (size_t b = 1; b < blocks_.size(); ++b) {
      std::vector<double> next(choices);
      for (size_t c = 0; c < choices; ++c) {
        const double start = c + 1 < choices ? tier_price : 0;
        size_t best = c;
        for (size_t before = 0; before < c; ++before) {
          if (cost[before] + start < cost[best] + (best == c ? 0 : start)) best = before;
        }
        from[b][c] = best;
        next[c] = cost[best] + (best == c ? 0 : start) + Cost(b, c, price, latent_price);
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
  // Per latent.
  double StoredBits(size_t choice) const {
    return Bits(choice) > 0 ? Bits(choice) + options_.window_bits : 0;
  }
  double Loss(size_t block, size_t choice) const {
    const int bits = Bits(choice);
    return blocks_[block] * (bits > 0 ? QuantizerDistortion(bits) : options_.truncation_price);
  }
  double Cost(size_t block, size_t choice, double price, double latent_price) const {
    const double latent = price * StoredBits(choice) + (Bits(choice) > 0 ? latent_price : 0);
    return Loss(block, choice) + latent * static_cast<double>(options_.block);
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
        plan.work += cost_.tier;
      }
      plan.tiers.back().width += options_.block;
      plan.bits += StoredBits(path[b]) * static_cast<double>(options_.block);
      plan.work += cost_.latent * static_cast<double>(options_.block);
    }
    return plan;
  }

  const BudgetOptions& options_;
  DecodeCost cost_;
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
        layer.k.emplace_back(group.separate_k, options.keys, options);
        layer.v.emplace_back(group.separate_v, options.values, options);
        layer.shared.emplace_back(group.shared, options.keys + options.values, options);
      }
    }
  }

  // rate: bits that a nanosecond counts for.
  BudgetPlan Plan(double price, double rate) const {
    BudgetPlan plan;
    for (const LayerPlanner& layer : layers_) AddLayer(layer, price, rate, plan);
    return plan;
  }

  // The best plan within the budget, by bisection of the price.
  BudgetPlan Best(double rate) const {
    double low = 1e-18, high = 1e6;  // per bit: from buying everything to buying the least
    BudgetPlan plan = Plan(high, rate);
    Require(plan.bits_per_token <= options_.bits_per_token,
            "budget: {:.0f} bits per token do not hold one block of {} latents per unit: expected "
            "{:.0f} or more",
            options_.bits_per_token, options_.block, plan.bits_per_token);
    for (int i = 0; i < 80; ++i) {
      const double price = std::sqrt(low * high);
      BudgetPlan tried = Plan(price, rate);
      if (tried.bits_per_token <= options_.bits_per_token) {
        high = price;
        plan = std::move(tried);
      } else {
        low = price;
      }
    }
    return plan;
  }

 private:
  void AddLayer(const LayerPlanner& layer, double price, double rate, BudgetPlan& plan) const {
    std::vector<GroupPlan> separate, shared;
    UnitPlan separate_sum, shared_sum;
    const auto add = [](UnitPlan unit, UnitPlan& sum) {
      sum.bits += unit.bits;
      sum.loss += unit.loss;
      sum.work += unit.work;
      return std::move(unit.tiers);
    };
    for (size_t g = 0; g < layer.k.size(); ++g) {
      GroupPlan both{
          .shared = false, .k = add(layer.k[g].Plan(price, rate), separate_sum), .v = {}};
      both.v = add(layer.v[g].Plan(price, rate), separate_sum);
      separate.push_back(std::move(both));
      shared.push_back(
          {.shared = true, .k = add(layer.shared[g].Plan(price, rate), shared_sum), .v = {}});
    }
    const auto cost = [&](const UnitPlan& sum) {
      return sum.loss + price * (sum.bits + rate * sum.work);
    };
    const bool share = options_.allow_shared &&
                       (!options_.allow_separate || cost(shared_sum) < cost(separate_sum));
    const UnitPlan& sum = share ? shared_sum : separate_sum;
    plan.bits_per_token += sum.bits;
    plan.predicted_loss += sum.loss;
    plan.work += sum.work;
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
  BudgetPlan plan = search.Best(0);
  if (options.work_weight == 0 || plan.work == 0) return plan;
  return search.Best(options.work_weight * options.bits_per_token / plan.work);
}

}  // namespace palu
