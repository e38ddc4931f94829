// Perplexity by the protocol of method.md section 4.
#pragma once

#include <functional>

#include "eval/score.h"

namespace palu {

struct PerplexityResult {
  double perplexity = 0;
  int64_t windows = 0;
  int64_t tokens = 0;  // scored: windows * (seqlen - 1)
  double seconds = 0;
};

// `ids`: the whole text, tokenised once with one BOS in front. Contiguous windows of `seqlen`
// tokens start fresh; the result is exp of the mean over windows of the mean negative
// log-likelihood over seqlen - 1 positions; a trailing partial window is dropped. Throws Error when
// the text is shorter than a window or seqlen is below 2. on_window is called after each window.
PerplexityResult Perplexity(Scorer& scorer, std::span<const TokenId> ids, int64_t seqlen,
                            const std::function<void()>& on_window = {});

// The same through decoding: tokens are taken one at a time, as generation takes them, `together`
// windows side by side (at least one).
PerplexityResult DecodedPerplexity(Scorer& scorer, std::span<const TokenId> ids, int64_t seqlen,
                                   int64_t together, const std::function<void()>& on_window = {});

// Number of whole windows.
int64_t CountWindows(int64_t tokens, int64_t seqlen);
// The same; throws Error when there is none or seqlen is below 2.
int64_t RequireWindows(int64_t tokens, int64_t seqlen);

}  // namespace palu
