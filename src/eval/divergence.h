// How far a compressed model's next-token distributions are from the dense model's.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "eval/score.h"

namespace palu {

struct DivergenceResult {
  int64_t windows = 0;
  int64_t tokens = 0;                                         // scored: windows * (seqlen - 1)
  double kl_mean = 0, kl_median = 0, kl_p99 = 0, kl_max = 0;  // nats
  double logprob_change = 0;  // mean of compressed - dense, nats; negative is worse
  double same_argmax = 0;     // share of 1
  double dense_perplexity = 0, compressed_perplexity = 0;  // as Perplexity() defines it
  double seconds = 0;
};

// Linear interpolation between order statistics; q in [0, 1], values not empty. Reorders them.
double Quantile(std::span<double> values, double q);

// Windows of `seqlen` ids as Perplexity() takes them, at most `max_windows` of them (0: all).
// Logits are compared slab by slab, so that memory does not grow with window or vocabulary, and on
// a GPU do not leave it. Throws Error when the vocabularies differ in size, the models are not on
// one device, logits are not finite, the text is shorter than a window, or seqlen is below 2.
DivergenceResult Divergence(Scorer& dense, Scorer& compressed, std::span<const TokenId> ids,
                            int64_t seqlen, int64_t max_windows = 0,
                            const std::function<void()>& on_window = {});

// The same of one window: [ids - 1] tokens, p of the dense model, targets the true next tokens.
std::vector<RowDivergence> CompareWindow(Scorer& dense, Scorer& compressed,
                                         std::span<const TokenId> ids);

// Whether what was measured on some windows is lower in `a` than in `b`, windows compared one by
// one, by more than twice the standard error of the mean difference; of one window, whether it is
// lower at all.
bool SurelyLess(std::span<const double> a, std::span<const double> b);

}  // namespace palu
