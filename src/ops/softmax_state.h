// Softmax in pieces: the running maximum and sum of a set of scores, and the algebra that joins the
// results of disjoint sets (Milakov & Gimelshein 2018; FlashInfer's attention state). An
// accumulator acc[d] that travels with a state holds sum_t exp(score_t - max) * value_t.
#pragma once

#include <cstdint>
#include <limits>

namespace palu {

struct SoftmaxState {
  float max = -std::numeric_limits<float>::infinity();  // of no scores
  float sum = 0;                                        // of exp(score - max)
};

// The largest of scores[n]; NaN when one of them is NaN, -inf when n = 0.
float MaxOf(const float* scores, int64_t n);

// scores[t] <- exp(scores[t] - max), to 2 ulp of the rounded difference; returns their sum. A max
// of -inf (every score masked) gives zeros.
float ExpInPlace(float* scores, int64_t n, float max);

// Takes a block of scores into the state and replaces them by their weights relative to the new
// maximum. Returns the factor by which an accumulator of the earlier scores must be multiplied
// before it takes the block's values.
float Absorb(SoftmaxState* state, float* scores, int64_t n);

// (state, acc) <- the union of both sets; acc and other_acc [d].
void Merge(SoftmaxState* state, float* acc, const SoftmaxState& other, const float* other_acc,
           int64_t d);

// acc[d] /= sum, which ends the softmax; zeros when there were no scores.
void Normalize(const SoftmaxState& state, float* acc, int64_t d);

}  // namespace palu
