#include "compress/budget_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace palu {
namespace {

struct Sums {
  double bits = 0, loss = 0, work = 0;

  Sums& operator+=(const Sums& other) {
    bits += other.bits;
    loss += other.loss;
    work += other.work;
    return *this;
  }
};

// Of a unit: which of the options' bits every block takes, the number of options for none.
using Path = std::vector<size_t>;

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

  Path Plan(double price, double rate) const {
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
    Path path(blocks_.size());
    for (size_t b = blocks_.size(); b-- > 0; choice = from[b][choice]) path[b] = choice;
    return path;
  }

  Sums Count(const Path& path) const {
    Sums sums;
    for (const LatentTier& tier : Tiers(path)) {
      const auto width = static_cast<double>(tier.width);
      sums.bits += kTierBits + (tier.bits + options_.window_bits) * width;
      sums.work += cost_.tier + cost_.latent * width;
    }
    for (size_t b = 0; b < path.size(); ++b) sums.loss += Loss(b, path[b]);
    return sums;
  }

  std::vector<LatentTier> Tiers(const Path& path) const {
    std::vector<LatentTier> tiers;
    for (const size_t choice : path) {
      const int bits = Bits(choice);
      if (bits == 0) break;
      if (tiers.empty() || tiers.back().bits != bits) tiers.push_back({0, bits});
      tiers.back().width += options_.block;
    }
    return tiers;
  }

  // Calls with(path) for every table in which one block has more bits than in `path`.
  template <class F>
  void ForRaised(Path path, const F& with) const {
    for (size_t b = 0; b < path.size(); ++b) {
      const size_t before = path[b];
      for (size_t c = b == 0 ? 0 : path[b - 1]; c < before; ++c) {
        path[b] = c;
        with(path);
      }
      path[b] = before;
    }
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

  const BudgetOptions& options_;
  DecodeCost cost_;
  std::vector<double> blocks_;  // loss when nothing of a block is stored
};

struct LayerPlanner {
  std::vector<UnitPlanner> k, v, shared;
};

struct Unit {
  const UnitPlanner* planner;
  Path path;
  Sums sums;
};

struct Table {
  struct Layer {
    bool shared = false;
    std::vector<Unit> k, v;
  };
  std::vector<Layer> layers;
  Sums sums;
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

  // The best table within the budget, by bisection of the price. rate: bits that a nanosecond
  // counts for.
  Table Best(double rate) const {
    double low = 1e-18, high = 1e6;  // per bit: from buying everything to buying the least
    Table table = Choose(high, rate);
    Require(table.sums.bits <= options_.bits_per_token,
            "budget: {:.0f} bits per token do not hold one block of {} latents per unit: expected "
            "{:.0f} or more",
            options_.bits_per_token, options_.block, table.sums.bits);
    for (int i = 0; i < 80; ++i) {
      const double price = std::sqrt(low * high);
      Table tried = Choose(price, rate);
      if (tried.sums.bits <= options_.bits_per_token) {
        high = price;
        table = std::move(tried);
      } else {
        low = price;
      }
    }
    SpendTheRest(high * rate, table);
    return table;
  }

 private:
  Table Choose(double price, double rate) const {
    Table table;
    for (const LayerPlanner& layer : layers_) {
      const auto plan = [&](const std::vector<UnitPlanner>& planners, Sums& sums) {
        std::vector<Unit> units;
        for (const UnitPlanner& planner : planners) {
          Path path = planner.Plan(price, rate);
          const Sums counted = planner.Count(path);
          sums += counted;
          units.push_back({&planner, std::move(path), counted});
        }
        return units;
      };
      const auto cost = [&](const Sums& sums) {
        return sums.loss + price * (sums.bits + rate * sums.work);
      };
      Sums separate, shared;
      Table::Layer apart{false, plan(layer.k, separate), plan(layer.v, separate)};
      Table::Layer together{true, plan(layer.shared, shared), {}};
      const bool share =
          options_.allow_shared && (!options_.allow_separate || cost(shared) < cost(separate));
      table.sums += share ? shared : separate;
      table.layers.push_back(std::move(share ? together : apart));
    }
    return table;
  }

  // A multiplier reaches tables on the convex hull of bits and loss only, and a layer that changes
  // between shared and separate latents leaves a gap. What is left is free, but for the work.
  void SpendTheRest(double work_price, Table& table) const {
    std::vector<Unit*> units;
    for (Table::Layer& layer : table.layers) {
      for (Unit& unit : layer.k) units.push_back(&unit);
      for (Unit& unit : layer.v) units.push_back(&unit);
    }
    for (;;) {
      const double rest = options_.bits_per_token - table.sums.bits;
      double most = 0;
      Unit* best = nullptr;
      Unit raised{};
      for (Unit* unit : units) {
        unit->planner->ForRaised(unit->path, [&](const Path& path) {
          const Sums sums = unit->planner->Count(path);
          const double bits = sums.bits - unit->sums.bits;
          const double saved =
              unit->sums.loss - sums.loss - work_price * (sums.work - unit->sums.work);
          const double gain = saved / std::max(bits, 1.0);  // joining a tier may take none
          if (bits > rest || gain <= most) return;
          most = gain;
          best = unit;
          raised = {unit->planner, path, sums};
        });
      }
      if (!best) return;
      *best = std::move(raised);
      table.sums = {};
      for (const Unit* unit : units) table.sums += unit->sums;
    }
  }

  const BudgetOptions& options_;
  std::vector<LayerPlanner> layers_;
};

BudgetPlan ToPlan(const Table& table) {
  BudgetPlan plan{{}, table.sums.bits, table.sums.loss, table.sums.work};
  for (const Table::Layer& layer : table.layers) {
    std::vector<GroupPlan>& groups = plan.layers.emplace_back();
    for (size_t g = 0; g < layer.k.size(); ++g) {
      const Unit& k = layer.k[g];
      GroupPlan& group = groups.emplace_back();
      group.shared = layer.shared;
      group.k = k.planner->Tiers(k.path);
      group.k_loss = k.sums.loss;
      if (layer.shared) continue;
      const Unit& v = layer.v[g];
      group.v = v.planner->Tiers(v.path);
      group.v_loss = v.sums.loss;
    }
  }
  return plan;
}

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
  const Table table = search.Best(0);
  if (options.work_weight == 0 || table.sums.work == 0) return ToPlan(table);
  return ToPlan(search.Best(options.work_weight * options.bits_per_token / table.sums.work));
}

}  // namespace palu
