#include "eval/divergence.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "eval/perplexity.h"

namespace palu {
namespace {

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

DivergenceResult Summarise(const std::vector<RowDivergence>& tokens) {
  DivergenceResult result;
  result.tokens = std::ssize(tokens);
  std::vector<double> kl;
  double dense = 0, compressed = 0;
  int64_t same = 0;
  for (const RowDivergence& token : tokens) {
    Require(std::isfinite(token.kl), "scored token {}: a model's logits are not finite", kl.size());
    kl.push_back(token.kl);
    dense += token.p_logprob / static_cast<double>(result.tokens);
    compressed += token.q_logprob / static_cast<double>(result.tokens);
    same += token.p_argmax == token.q_argmax;
  }
  result.kl_mean = Mean(kl);
  result.kl_median = Quantile(kl, 0.5);
  result.kl_p99 = Quantile(kl, 0.99);
  result.kl_max = Quantile(kl, 1);
  result.logprob_change = compressed - dense;
  // All windows are of one length, so the mean of their means is the mean over tokens.
  result.dense_perplexity = std::exp(-dense);
  result.compressed_perplexity = std::exp(-compressed);
  result.same_argmax = static_cast<double>(same) / static_cast<double>(result.tokens);
  return result;
}

}  // namespace

double Quantile(std::span<double> values, double q) {
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<ptrdiff_t>(at);
  const auto nth = values.begin() + low;
  std::nth_element(values.begin(), nth, values.end());
  if (nth + 1 == values.end()) return *nth;
  return std::lerp(*nth, *std::min_element(nth + 1, values.end()), at - static_cast<double>(low));
}

bool SurelyLess(std::span<const double> a, std::span<const double> b) {
  const auto n = static_cast<double>(a.size());
  double sum = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += b[i] - a[i];
    squares += (b[i] - a[i]) * (b[i] - a[i]);
  }
  const double mean = sum / n;
  return mean > 0 && (n < 2 || mean * mean > 4 * (squares / n - mean * mean) / (n - 1));
}

std::vector<RowDivergence> CompareWindow(Scorer& dense, Scorer& compressed,
                                         std::span<const TokenId> ids) {
  const auto scored = std::ssize(ids) - 1;
  std::vector<RowDivergence> result(static_cast<size_t>(scored));
  CachedSequence dense_sequence = dense.NewSequence(), sequence = compressed.NewSequence();
  const int64_t chunk = std::min(dense.options().chunk_tokens, compressed.options().chunk_tokens);
  for (int64_t begin = 0; begin < scored; begin += chunk) {
    const auto at = static_cast<size_t>(begin);
    const auto count = static_cast<size_t>(std::min(chunk, scored - begin));
    dense.Pass(dense_sequence, ids.subspan(at, count));
    compressed.Pass(sequence, ids.subspan(at, count));
    dense.Compare(compressed, ids.subspan(at + 1, count), std::span(result).subspan(at, count));
  }
  return result;
}

DivergenceResult Divergence(Scorer& dense, Scorer& compressed, std::span<const TokenId> ids,
                            int64_t seqlen, int64_t max_windows,
                            const std::function<void()>& on_window) {
  const int64_t vocab = dense.model().config().vocab_size;
  Require(vocab == compressed.model().config().vocab_size,
          "expected models of one vocabulary, found {} and {} tokens", vocab,
          compressed.model().config().vocab_size);
  int64_t windows = RequireWindows(std::ssize(ids), seqlen);
  if (max_windows > 0) windows = std::min(windows, max_windows);
  const auto start = std::chrono::steady_clock::now();
  std::vector<RowDivergence> tokens;
  for (int64_t w = 0; w < windows; ++w) {
    const auto window =
        CompareWindow(dense, compressed,
                      ids.subspan(static_cast<size_t>(w * seqlen), static_cast<size_t>(seqlen)));
    tokens.insert(tokens.end(), window.begin(), window.end());
    if (on_window) on_window();
  }
  DivergenceResult result = Summarise(tokens);
  result.windows = windows;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace palu
