#include "eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace palu {

int64_t CountWindows(int64_t tokens, int64_t seqlen) { return tokens / seqlen; }

int64_t RequireWindows(int64_t tokens, int64_t seqlen) {
  Require(seqlen >= 2, "seqlen: expected 2 or more, found {}", seqlen);
  const int64_t windows = CountWindows(tokens, seqlen);
  Require(windows > 0, "the text has {} tokens, BOS included: expected at least one window of {}",
          tokens, seqlen);
  return windows;
}

namespace {

using Clock = std::chrono::steady_clock;

// sum: over windows, of the mean negative log-likelihood.
PerplexityResult Summed(double sum, int64_t windows, int64_t seqlen, Clock::time_point start) {
  return {std::exp(sum / static_cast<double>(windows)), windows, windows * (seqlen - 1),
          std::chrono::duration<double>(Clock::now() - start).count()};
}

}  // namespace

PerplexityResult Perplexity(Scorer& scorer, std::span<const TokenId> ids, int64_t seqlen,
                            const std::function<void()>& on_window) {
  const int64_t windows = RequireWindows(std::ssize(ids), seqlen);
  const auto start = Clock::now();
  double sum = 0;
  for (int64_t w = 0; w < windows; ++w) {
    const TokenScores scores =
        scorer.Score(ids.subspan(static_cast<size_t>(w * seqlen), static_cast<size_t>(seqlen)));
    sum -= std::accumulate(scores.logprobs.begin(), scores.logprobs.end(), 0.0) /
           static_cast<double>(seqlen - 1);
    if (on_window) on_window();
  }
  return Summed(sum, windows, seqlen, start);
}

PerplexityResult DecodedPerplexity(Scorer& scorer, std::span<const TokenId> ids, int64_t seqlen,
                                   int64_t together, const std::function<void()>& on_window) {
  const int64_t windows = RequireWindows(std::ssize(ids), seqlen);
  Require(together >= 1, "windows decoded together: expected 1 or more, found {}", together);
  const auto start = Clock::now();
  double sum = 0;
  for (int64_t first = 0; first < windows; first += together) {
    const int64_t count = std::min(together, windows - first);
    std::vector<CachedSequence> sequences;
    for (int64_t w = 0; w < count; ++w) sequences.push_back(scorer.NewSequence());
    const auto token = [&](size_t window, int64_t at) {
      return (first + static_cast<int64_t>(window)) * seqlen + at;
    };
    for (int64_t t = 0; t + 1 < seqlen; ++t) {  // the last token needs no successor
      std::vector<Scorer::Piece> pieces;
      for (size_t w = 0; w < sequences.size(); ++w) {
        pieces.push_back({&sequences[w], ids.subspan(static_cast<size_t>(token(w, t)), 1), 0});
      }
      scorer.ExtendScored(
          pieces,
          [&](size_t window, int64_t) { return ids[static_cast<size_t>(token(window, t + 1))]; },
          [&](size_t, int64_t, double logprob, TokenId) {
            sum -= logprob / static_cast<double>(seqlen - 1);
          });
    }
    for (int64_t w = 0; w < count && on_window; ++w) on_window();
  }
  return Summed(sum, windows, seqlen, start);
}

}  // namespace palu
