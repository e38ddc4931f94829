// Compression to a budget of stored bits: one knob, everything else follows from the calibration.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "compress/budget_search.h"
#include "compress/pipeline.h"

namespace palu {

// What held-out text prefers on both wiki models at 1 to 2 bits (docs/results.md), for want of text
// to measure it on.
inline constexpr double kUsualTruncationPrice = 1.5;

// Of --prefer speed: work weighs as much as bits.
inline constexpr double kSpeedWorkWeight = 1;

struct BudgetCompressOptions {
  double bits_per_element = 2;  // stored bits, scales included, per number of a dense cache
  int64_t group_size = 4;
  std::optional<DType> factor_dtype = {};  // of U and A; F16 where not given (F32 for F32 weights)
  std::vector<int> bits{8, 4, 3, 2};
  int64_t block = 16;
  double truncation_price =
      kUsualTruncationPrice;  // as BudgetOptions; of BudgetCompressor::Compress
  int64_t recent = 16;        // last tokens that are kept as they were, too
  bool centered = true;       // the latents' mean is kept apart
  // Share of its mean diagonal that is added to G: gradients of few windows of one text leave
  // directions almost free that other texts need.
  double damping = 0.05;
  bool allow_shared = true, allow_separate = true;
  double work_weight = 0;        // as BudgetOptions, of decoding on the CPU
  bool output_weighting = true;  // false: errors of all outputs count alike (for comparison)
};

// Throws Error for options out of range or a compressed model: what can be told before calibration.
void CheckBudgetOptions(const Model& model, const BudgetCompressOptions& options);

// Factors every group once; what is kept of it is quickly tried at several prices. Model,
// statistics and options must outlive it.
class BudgetCompressor {
 public:
  // Throws Error as CompressToBudget does. `on_layer` is called once per layer. On a device what
  // grows with the hidden size is done there.
  BudgetCompressor(const Model& model, const CalibrationStats& stats,
                   const BudgetCompressOptions& options, const Exec& exec,
                   const std::function<void()>& on_layer = {});
  ~BudgetCompressor();

  // Throws Error for a budget that is too small.
  CompressionResult Compress(double truncation_price) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Throws Error as CheckBudgetOptions does, for statistics without means and output gradients or for
// another window of recent tokens, and for a budget that is too small. `on_layer` is called once
// per layer.
CompressionResult CompressToBudget(const Model& model, const CalibrationStats& stats,
                                   const BudgetCompressOptions& options, const Exec& exec,
                                   const std::function<void()>& on_layer = {});

}  // namespace palu
