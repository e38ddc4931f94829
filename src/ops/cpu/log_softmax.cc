#include "ops/log_softmax.h"

#include <cassert>
#include <cmath>
#include <limits>

#include "ops/softmax_state.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/log_softmax.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

// sum(exp(x - max)). Blocks short enough to add in float are added up in double.
double SumExp(const float* x, int64_t n, float max) {
  constexpr int64_t kBlock = 16 * kLanes;
  const VF m = hn::Set(DF(), max);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = HWY_MIN(begin + kBlock, n);
    VF sum = hn::Zero(DF());
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) sum = hn::Add(sum, Exp(hn::Sub(LoadFloat(x + i), m)));
    if (i < end) {
      float rest[kLanes];
      hn::StoreU(Exp(hn::Sub(LoadPartial(x + i, end - i), m)), DF(), rest);
      sum = hn::Add(sum, LoadPartial(rest, end - i));
    }
    total += static_cast<double>(SumLanes(sum));
  }
  return total;
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(SumExp);

double LogSumExp(std::span<const float> logits) {
  const int64_t n = static_cast<int64_t>(logits.size());
  const float max = MaxOf(logits.data(), n);
  if (std::isinf(max)) return static_cast<double>(max);  // all masked, or one infinitely likely
  return static_cast<double>(max) + std::log(HWY_DYNAMIC_DISPATCH(SumExp)(logits.data(), n, max));
}

double LogProb(std::span<const float> logits, int64_t target) {
  assert(target >= 0 && target < static_cast<int64_t>(logits.size()));
  return static_cast<double>(logits[static_cast<size_t>(target)]) - LogSumExp(logits);
}

int64_t ArgMax(std::span<const float> logits) {
  const float max = MaxOf(logits.data(), static_cast<int64_t>(logits.size()));
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == max || (std::isnan(max) && std::isnan(logits[i]))) {
      return static_cast<int64_t>(i);
    }
  }
  return -1;  // an empty row
}

}  // namespace palu
#endif
