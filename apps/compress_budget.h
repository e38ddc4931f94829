// The part of `palu compress` that belongs to --budget, the default.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "compress/budget_pipeline.h"
#include "format/model_card.h"

namespace palu::cli {

// Loses at most one per cent on both wiki models (docs/results.md, "Budgets of bits"), at bytes
// where the published method with 4-bit latents loses 2.4 and 4.3 %.
inline constexpr double kDefaultBudget = 2.2;

struct BudgetCommand {
  BudgetCompressOptions options{.bits_per_element = kDefaultBudget};
  std::string prefer = "memory", latents = "auto", weighting = "two-sided";
  std::optional<double> truncation_price;
  bool no_centering = false;
  int64_t held_out_windows = 8;
  std::vector<const CLI::Option*> own, published;  // options of either method

  // Whether a budget is what the command line asks for: no option of the published method is given.
  // Throws Error when options of both methods are.
  bool Chosen() const;

  // With what other options of the command say.
  BudgetCompressOptions Resolve(int64_t group_size, std::optional<DType> factor_dtype) const;
};

// Adds the options to `palu compress`.
void AddBudget(CLI::App& command, BudgetCommand& budget);

// Sets those of the published method, which the command has by now, apart from them.
void SetPublishedApart(CLI::App& command, BudgetCommand& budget);

// Text that calibration did not see.
struct HeldOutText {
  std::vector<TokenId> ids;
  int64_t seqlen = 0;
};

// Compresses to the budget. Where no price of truncation is given and held-out text is there, those
// of kPrices are tried: the usual one is taken unless the model of another surely diverges less
// from the dense model on it. Appends what was found to `figures`.
CompressionResult CompressToBudget(const BudgetCommand& budget, const Model& model,
                                   const CalibrationStats& stats,
                                   const BudgetCompressOptions& options,
                                   const HeldOutText& held_out, const Exec& exec, Figures& figures);

}  // namespace palu::cli
