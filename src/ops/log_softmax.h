// Log-probabilities from a row of logits [vocab]. Sums are kept in double.
#pragma once

#include <cstdint>
#include <span>

namespace palu {

// log(sum(exp(logits))); absolute error within 4 float epsilons. -inf for an empty row.
double LogSumExp(std::span<const float> logits);

// log softmax(logits)[target].
double LogProb(std::span<const float> logits, int64_t target);

// Index of the largest logit, the first of ties; of the first NaN when there is one; -1 for an
// empty row.
int64_t ArgMax(std::span<const float> logits);

}  // namespace palu
