// Choosing the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "tokenizer/tokenizer.h"

namespace palu {

struct SamplingParams {
  double temperature = 0;  // 0: greedy
  int64_t top_k = 0;       // 0: all tokens
  double top_p = 1;        // nucleus: the smallest set of tokens whose probability reaches this
  double min_p = 0;        // drop tokens less likely than this share of the most likely one
  uint64_t seed = 0;
};

// Throws Error naming the parameter that is out of range.
void Validate(const SamplingParams& params);

// How one token is chosen: where in the distribution it lies is drawn already.
struct Draw {
  SamplingParams params;
  double uniform = 0;  // in [0, 1); of no concern at temperature 0
};

// One per sequence. Filters apply in the order temperature, top-k, top-p, min-p; the same seed and
// logits give the same token everywhere.
class Sampler {
 public:
  explicit Sampler(const SamplingParams& params) : params_(params), rng_(params.seed) {}

  // logits [vocab]. Greedy takes the first of equal maxima.
  TokenId Sample(std::span<const float> logits) { return Sample(logits, NextDraw()); }
  // The same in two steps, of which the first needs no logits.
  Draw NextDraw() { return {params_, params_.temperature > 0 ? rng_.Uniform() : 0}; }
  static TokenId Sample(std::span<const float> logits, const Draw& draw);

  // The tokens left after filtering with their probabilities, most likely first.
  struct Candidate {
    TokenId id;
    double probability;
  };
  static std::vector<Candidate> Candidates(std::span<const float> logits,
                                           const SamplingParams& params);

 private:
  SamplingParams params_;
  Rng rng_;
};

}  // namespace palu
