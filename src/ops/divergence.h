// Two models' next-token distributions compared, row by row. Sums are kept in double.
#pragma once

#include <cstdint>
#include <span>

namespace palu {

// Of two rows of logits over one vocabulary; natural logarithms.
struct RowDivergence {
  double kl = 0;                         // KL(softmax(p) || softmax(q)), nats
  double p_logprob = 0, q_logprob = 0;   // log softmax(.)[target]
  int32_t p_argmax = -1, q_argmax = -1;  // the first of the largest logits
};

// KL(softmax(p) || softmax(q)) of two rows of logits [vocab], in double from first to last; exactly
// 0 for equal rows, NaN where a logit is not finite.
double KlDivergence(std::span<const float> p, std::span<const float> q);

RowDivergence CompareRows(std::span<const float> p, std::span<const float> q, int64_t target);

}  // namespace palu
