#include "ops/divergence.h"

#include <algorithm>
#include <cmath>

#include "ops/log_softmax.h"

namespace palu {
namespace {

double Max(std::span<const float> row) { return *std::max_element(row.begin(), row.end()); }

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

RowDivergence CompareRows(std::span<const float> p, std::span<const float> q, int64_t target) {
  return {KlDivergence(p, q), LogProb(p, target), LogProb(q, target),
          static_cast<int32_t>(ArgMax(p)), static_cast<int32_t>(ArgMax(q))};
}

}  // namespace palu
