#include "compress/budget_search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "testing.h"

namespace palu {
namespace {

using testing::ErrorOf;

LatentEnergies Decaying(int64_t width, double first, double rate) {
  LatentEnergies energies;
  for (int64_t i = 0; i < width; ++i) {
    energies.push_back(first * std::exp(-rate * static_cast<double>(i)));
  }
  return energies;
}

std::vector<std::vector<GroupChoices>> TwoLayers() {
  return {{{Decaying(64, 1.0, 0.05), Decaying(64, 3.0, 0.01), Decaying(96, 3.5, 0.02)}},
          {{Decaying(64, 0.2, 0.20), Decaying(64, 0.5, 0.03), Decaying(96, 0.6, 0.08)}}};
}

double BitsOf(const std::vector<LatentTier>& tiers) {
  double bits = 0;
  for (const LatentTier& tier : tiers) bits += static_cast<double>(8 + tier.bits * tier.width);
  return bits;
}

// What a unit loses under tiers, from the definition.
double LossOf(const LatentEnergies& energies, const std::vector<LatentTier>& tiers, double price) {
  double loss = 0;
  size_t at = 0;
  for (const LatentTier& tier : tiers) {
    for (int64_t i = 0; i < tier.width; ++i) {
      loss += energies[at++] * QuantizerDistortion(tier.bits);
    }
  }
  for (; at < energies.size(); ++at) loss += energies[at] * price;
  return loss / 2;
}

TEST(SearchBudget, CountsWhatItStoresAndLoses) {
  const auto layers = TwoLayers();
  for (const double budget : {300.0, 500.0, 900.0, 4000.0}) {
    const BudgetPlan plan =
        SearchBudget(layers, {.bits_per_token = budget, .truncation_price = 1.5});
    double bits = 0, loss = 0;
    for (size_t l = 0; l < layers.size(); ++l) {
      const GroupPlan& group = plan.layers[l][0];
      bits += BitsOf(group.k) + BitsOf(group.v);
      loss += group.shared ? LossOf(layers[l][0].shared, group.k, 1.5)
                           : LossOf(layers[l][0].separate_k, group.k, 1.5) +
                                 LossOf(layers[l][0].separate_v, group.v, 1.5);
      EXPECT_TRUE(group.shared ? group.v.empty() : !group.v.empty());
    }
    EXPECT_DOUBLE_EQ(plan.bits_per_token, bits);
    EXPECT_LE(bits, budget);
    EXPECT_NEAR(plan.predicted_loss, loss, 1e-12 * loss);
    double parts = 0;
    for (const auto& groups : plan.layers) parts += groups[0].k_loss + groups[0].v_loss;
    EXPECT_NEAR(parts, loss, 1e-12 * loss);
  }
}

// Nothing is left that a block with more bits could spend, whatever the window adds to its price.
TEST(SearchBudget, SpendsWhatFits) {
  const auto layers = TwoLayers();
  for (const double window : {0.0, 0.125}) {
    for (double budget = 400; budget < 1000; budget += 7) {
      const BudgetPlan plan =
          SearchBudget(layers, {.bits_per_token = budget, .window_bits = window});
      EXPECT_LE(plan.bits_per_token, budget);
      // The next block at 2 bits, or one bit more for a block, in a tier of its own.
      EXPECT_GT(plan.bits_per_token, budget - 16 * (2 + window) - 8) << budget;
    }
  }
}

TEST(SearchBudget, MoreBitsLoseLess) {
  const auto layers = TwoLayers();
  double before = INFINITY;
  for (double budget = 250; budget < 2000; budget += 50) {
    const double loss = SearchBudget(layers, {.bits_per_token = budget}).predicted_loss;
    EXPECT_LE(loss, before) << budget;
    before = loss;
  }
}

// Against all monotone tables of one unit: those on the lower convex hull of bits and loss are
// found when the budget is what they take, and then nothing within it loses less.
TEST(SearchBudget, FindsTheTablesOnTheHull) {
  const LatentEnergies k = Decaying(64, 1.0, 0.06), v(16, 1e-9);
  const std::vector<std::vector<GroupChoices>> layers{{{k, v, Decaying(80, 1, 0.1)}}};
  struct Table {
    double bits, loss;
  };
  std::vector<Table> tables;
  const std::vector<int> choices{8, 4, 3, 2, 0};
  std::vector<int> bits;
  const std::function<void(size_t)> extend = [&](size_t first) {
    if (bits.size() == 4) {
      std::vector<LatentTier> tiers;
      for (const int b : bits) {
        if (b == 0) continue;
        if (tiers.empty() || tiers.back().bits != b) tiers.push_back({0, b});
        tiers.back().width += 16;
      }
      if (!tiers.empty()) tables.push_back({BitsOf(tiers), LossOf(k, tiers, 1)});
      return;
    }
    for (size_t c = first; c < choices.size(); ++c) {
      bits.push_back(choices[c]);
      extend(c);
      bits.pop_back();
    }
  };
  extend(0);
  ASSERT_EQ(tables.size(), 69u);            // multisets of 4 from 5, but for the one of nothing
  constexpr double kOfValues = 8 + 16 * 2;  // which are worth nothing
  std::set<double> found;
  for (double price = 1e-5; price < 1; price *= 1.3) {
    const auto best = *std::min_element(tables.begin(), tables.end(), [&](Table a, Table b) {
      return a.loss + price * a.bits < b.loss + price * b.bits;
    });
    if (!found.insert(best.bits).second) continue;
    const BudgetPlan plan =
        SearchBudget(layers, {.bits_per_token = best.bits + kOfValues, .allow_shared = false});
    const double loss = LossOf(k, plan.layers[0][0].k, 1);
    EXPECT_NEAR(loss, best.loss, 1e-12);
    for (const Table& table : tables) {
      EXPECT_TRUE(table.bits > best.bits || table.loss >= loss * (1 - 1e-12));
    }
  }
  EXPECT_GT(found.size(), 5u);
}

TEST(SearchBudget, SharesWhereThatLosesLess) {
  const auto layers = TwoLayers();
  const auto loss = [&](bool shared, bool separate) {
    return SearchBudget(layers,
                        {.bits_per_token = 600, .allow_shared = shared, .allow_separate = separate})
        .predicted_loss;
  };
  EXPECT_LE(loss(true, true), std::min(loss(true, false), loss(false, true)));
}

// Two units whose work differs: keys cost four times as much per latent as values do.
BudgetOptions WithWork(double budget, double weight) {
  return {.bits_per_token = budget,
          .keys = {.latent = 4, .tier = 10},
          .values = {.latent = 1, .tier = 2},
          .work_weight = weight};
}

TEST(SearchBudget, CountsTheWorkOfWhatIsStored) {
  const BudgetPlan plan = SearchBudget(TwoLayers(), WithWork(700, 0));
  double work = 0;
  const auto add = [&](const std::vector<LatentTier>& tiers, DecodeCost cost) {
    for (const LatentTier& tier : tiers) {
      work += cost.tier + cost.latent * static_cast<double>(tier.width);
    }
  };
  const BudgetOptions options = WithWork(700, 0);
  for (const std::vector<GroupPlan>& groups : plan.layers) {
    add(groups[0].k, groups[0].shared ? options.keys + options.values : options.keys);
    add(groups[0].v, options.values);
  }
  EXPECT_NEAR(plan.work, work, 1e-12 * work);
}

TEST(SearchBudget, WeighingWorkSavesItAtTheCostOfLoss) {
  BudgetPlan before = SearchBudget(TwoLayers(), WithWork(900, 0));
  EXPECT_EQ(before.predicted_loss,
            SearchBudget(TwoLayers(), {.bits_per_token = 900}).predicted_loss);
  for (const double weight : {0.5, 2.0, 8.0}) {
    const BudgetPlan plan = SearchBudget(TwoLayers(), WithWork(900, weight));
    EXPECT_LE(plan.bits_per_token, 900);
    EXPECT_LT(plan.work, before.work) << weight;
    EXPECT_GT(plan.predicted_loss, before.predicted_loss) << weight;
    before = plan;
  }
}

TEST(SearchBudget, TiersAreMultiplesOfTheBlockAndBitsFall) {
  const BudgetPlan plan = SearchBudget(TwoLayers(), {.bits_per_token = 700, .block = 32});
  for (const auto& groups : plan.layers) {
    for (const auto* tiers : {&groups[0].k, &groups[0].v}) {
      for (size_t t = 0; t < tiers->size(); ++t) {
        EXPECT_EQ((*tiers)[t].width % 32, 0);
        if (t == 0) continue;
        EXPECT_LT((*tiers)[t].bits, (*tiers)[t - 1].bits);
      }
    }
  }
}

TEST(SearchBudget, RefusesWhatCannotBe) {
  const auto layers = TwoLayers();
  EXPECT_NE(ErrorOf([&] { SearchBudget(layers, {.bits_per_token = 50}); }).find("or more"),
            std::string::npos);
  EXPECT_EQ(ErrorOf([&] { SearchBudget(layers, {.bits_per_token = 500, .block = 24}); }),
            "tier block: expected a multiple of 16, found 24");
}

}  // namespace
}  // namespace palu
