#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/log_softmax.h"

namespace palu {
namespace {

using Candidate = Sampler::Candidate;

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
}

void Renormalise(std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.probability;
  for (Candidate& c : candidates) c.probability /= sum;
}

}  // namespace

void Validate(const SamplingParams& params) {
  Require(params.temperature >= 0 && std::isfinite(params.temperature),
          "temperature: expected a number of 0 or more, found {}", params.temperature);
  Require(params.top_k >= 0, "top-k: expected 0 (all tokens) or more, found {}", params.top_k);
  Require(params.top_p > 0 && params.top_p <= 1, "top-p: expected a number in (0, 1], found {}",
          params.top_p);
  Require(params.min_p >= 0 && params.min_p <= 1, "min-p: expected a number in [0, 1], found {}",
          params.min_p);
}

TokenId Sampler::Sample(std::span<const float> logits, const Draw& draw) {
  if (draw.params.temperature == 0) return static_cast<TokenId>(ArgMax(logits));
  const std::vector<Candidate> candidates = Candidates(logits, draw.params);
  double left = draw.uniform;
  for (const Candidate& c : candidates) {
    left -= c.probability;
    if (left < 0) return c.id;
  }
  return candidates.back().id;  // rounding left a remainder
}

std::vector<Candidate> Sampler::Candidates(std::span<const float> logits,
                                           const SamplingParams& params) {
  const double temperature = params.temperature > 0 ? params.temperature : 1.0;
  const double max = logits[static_cast<size_t>(ArgMax(logits))];
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates.push_back({static_cast<TokenId>(i), std::exp((logits[i] - max) / temperature)});
  }
  const auto k = static_cast<size_t>(params.top_k);
  if (k > 0 && k < candidates.size()) {
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(k),
                      candidates.end(), MoreLikely);
    candidates.resize(k);
  } else {
    std::sort(candidates.begin(), candidates.end(), MoreLikely);
  }
  Renormalise(candidates);
  if (params.top_p < 1) {
    double sum = 0;
    size_t keep = 0;
    while (keep < candidates.size() && sum < params.top_p) sum += candidates[keep++].probability;
    candidates.resize(std::max<size_t>(keep, 1));
  }
  const double floor = params.min_p * candidates.front().probability;
  while (candidates.back().probability < floor) candidates.pop_back();
  Renormalise(candidates);
  return candidates;
}

}  // namespace palu
