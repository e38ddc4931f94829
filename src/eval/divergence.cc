#include "eval/divergence.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "eval/perplexity.h"
#include "ops/log_softmax.h"

namespace palu {
namespace {

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Max(std::span<const float> row) { return *std::max_element(row.begin(), row.end()); }

void Append(const TokenDivergences& window, TokenDivergences& all) {
  const auto append = [](const auto& from, auto& to) {
    to.insert(to.end(), from.begin(), from.end());
  };
  append(window.kl, all.kl);
  append(window.dense, all.dense);
  append(window.compressed, all.compressed);
  append(window.same_argmax, all.same_argmax);
}

DivergenceResult Summarise(TokenDivergences& tokens) {
  for (size_t i = 0; i < tokens.kl.size(); ++i) {
    Require(std::isfinite(tokens.kl[i]), "scored token {}: a model's logits are not finite", i);
  }
  DivergenceResult result;
  result.tokens = std::ssize(tokens.kl);
  result.kl_mean = Mean(tokens.kl);
  result.kl_median = Quantile(tokens.kl, 0.5);
  result.kl_p99 = Quantile(tokens.kl, 0.99);
  result.kl_max = Quantile(tokens.kl, 1);
  const double dense = Mean(tokens.dense), compressed = Mean(tokens.compressed);
  result.logprob_change = compressed - dense;
  // All windows are of one length, so the mean of their means is the mean over tokens.
  result.dense_perplexity = std::exp(-dense);
  result.compressed_perplexity = std::exp(-compressed);
  const auto same = std::count(tokens.same_argmax.begin(), tokens.same_argmax.end(), true);
  result.same_argmax = static_cast<double>(same) / static_cast<double>(result.tokens);
  return result;
}

}  // namespace

// sum p (log p - log q) = sum e^(x - max x) (x - y) / Z_p - log Z_p + log Z_q.
double KlDivergence(std::span<const float> p, std::span<const float> q) {
  const double p_max = Max(p), q_max = Max(q);
  double p_sum = 0, q_sum = 0, weighted = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double x = p[i] - p_max, y = q[i] - q_max;
    const double e = std::exp(x);
    p_sum += e;
    q_sum += std::exp(y);
    weighted += e * (x - y);
  }
  const double kl = weighted / p_sum - std::log(p_sum) + std::log(q_sum);
  return kl < 0 ? 0 : kl;  // rounding; a NaN stays one
}

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

TokenDivergences CompareWindow(Scorer& dense, Scorer& compressed, std::span<const TokenId> ids) {
  const auto scored = std::ssize(ids) - 1;
  const auto size = static_cast<size_t>(scored);
  TokenDivergences result{std::vector<double>(size), std::vector<double>(size),
                          std::vector<double>(size), std::vector<char>(size)};
  CachedSequence dense_sequence = dense.NewSequence(), sequence = compressed.NewSequence();
  const int64_t chunk = std::min(dense.options().chunk_tokens, compressed.options().chunk_tokens);
  for (int64_t begin = 0; begin < scored; begin += chunk) {
    const int64_t count = std::min(chunk, scored - begin);
    const auto part = ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    dense.Pass(dense_sequence, part);
    compressed.Pass(sequence, part);
    const int64_t slab = std::min(dense.slab_rows(), compressed.slab_rows());
    for (int64_t r = 0; r < count; r += slab) {
      const int64_t rows = std::min(slab, count - r);
      const MatrixView<const float> p = dense.Logits(r, rows);
      const MatrixView<const float> q = compressed.Logits(r, rows);
      dense.exec().pool.ParallelFor(rows, [&](int64_t row, int) {
        const auto i = static_cast<size_t>(begin + r + row);
        const std::span<const float> x = p.RowSpan(row), y = q.RowSpan(row);
        result.kl[i] = KlDivergence(x, y);
        result.dense[i] = LogProb(x, ids[i + 1]);
        result.compressed[i] = LogProb(y, ids[i + 1]);
        result.same_argmax[i] = ArgMax(x) == ArgMax(y);
      });
    }
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
  TokenDivergences tokens;
  for (int64_t w = 0; w < windows; ++w) {
    Append(CompareWindow(dense, compressed,
                         ids.subspan(static_cast<size_t>(w * seqlen), static_cast<size_t>(seqlen))),
           tokens);
    if (on_window) on_window();
  }
  DivergenceResult result = Summarise(tokens);
  result.windows = windows;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace palu
