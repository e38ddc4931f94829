#include "ops/softmax_state.h"

#include <cmath>

#include "ops/vector.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/softmax_state.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

float MaxKernel(const float* scores, int64_t n) {
  const VF lowest = hn::Set(DF(), -std::numeric_limits<float>::infinity());
  VF max = lowest;
  VF nan = hn::Zero(DF());  // becomes NaN in a lane that met one; Max alone may lose it
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = LoadFloat(scores + i);
    max = hn::Max(max, v);
    nan = hn::IfThenElse(hn::IsNaN(v), v, nan);
  }
  float result = hn::GetLane(hn::MaxOfLanes(DF(), hn::IfThenElse(hn::IsNaN(max), lowest, max)));
  bool any_nan = !hn::AllFalse(DF(), hn::IsNaN(nan));
  for (; i < n; ++i) {
    any_nan |= std::isnan(scores[i]);
    if (scores[i] > result) result = scores[i];
  }
  return any_nan ? std::numeric_limits<float>::quiet_NaN() : result;
}

float ExpKernel(float* scores, int64_t n, float max) {
  const VF m = hn::Set(DF(), max);
  VF sum = hn::Zero(DF());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF e = Exp(hn::Sub(LoadFloat(scores + i), m));
    hn::StoreU(e, DF(), scores + i);
    sum = hn::Add(sum, e);
  }
  if (i < n) {
    StorePartial(Exp(hn::Sub(LoadPartial(scores + i, n - i), m)), scores + i, n - i);
    sum = hn::Add(sum, LoadPartial(scores + i, n - i));  // zeros in the lanes that do not exist
  }
  return SumLanes(sum);
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(MaxKernel);
HWY_EXPORT(ExpKernel);

namespace {

constexpr float kNoScores = -std::numeric_limits<float>::infinity();

// What a sum relative to `from` is multiplied by to be relative to `to` >= from.
float Rescale(float from, float to) {
  if (from == to && from != kNoScores) return 1.0f;  // as most often, far into a sequence
  return from == kNoScores ? 0.0f : std::exp(from - to);
}

// NaN wins, so that a broken score is seen in the result.
float MaxOrNan(float a, float b) { return std::isnan(a) || a > b ? a : b; }

}  // namespace

float MaxOf(const float* scores, int64_t n) { return HWY_DYNAMIC_DISPATCH(MaxKernel)(scores, n); }

float ExpInPlace(float* scores, int64_t n, float max) {
  if (max == kNoScores) {
    std::fill_n(scores, n, 0.0f);
    return 0.0f;
  }
  return HWY_DYNAMIC_DISPATCH(ExpKernel)(scores, n, max);
}

float Absorb(SoftmaxState* state, float* scores, int64_t n) {
  const float max = MaxOrNan(MaxOf(scores, n), state->max);
  const float scale = Rescale(state->max, max);
  state->sum = state->sum * scale + ExpInPlace(scores, n, max);
  state->max = max;
  return scale;
}

void Merge(SoftmaxState* state, float* acc, const SoftmaxState& other, const float* other_acc,
           int64_t d) {
  const float max = MaxOrNan(state->max, other.max);
  const float scale = Rescale(state->max, max);
  const float other_scale = Rescale(other.max, max);
  state->sum = state->sum * scale + other.sum * other_scale;
  state->max = max;
  ScaledAdd(other_scale, other_acc, scale, acc, d);
}

void Normalize(const SoftmaxState& state, float* acc, int64_t d) {
  Scale(state.max == kNoScores ? 0.0f : 1.0f / state.sum, acc, d);
}

}  // namespace palu
#endif
