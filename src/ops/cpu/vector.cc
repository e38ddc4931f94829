#include "ops/vector.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/vector.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

// Four accumulators, as one product has nothing else to hide the latency behind.
float DotKernel(const float* a, const float* b, int64_t n) {
  VF sums[4] = {hn::Zero(DF()), hn::Zero(DF()), hn::Zero(DF()), hn::Zero(DF())};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      sums[v] = hn::MulAdd(LoadFloat(a + i + v * kLanes), LoadFloat(b + i + v * kLanes), sums[v]);
    }
  }
  for (; i < n; i += kLanes) sums[0] = hn::MulAdd(Load(a + i, n - i), Load(b + i, n - i), sums[0]);
  return SumLanes(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

void AxpyKernel(float alpha, const float* x, float* y, int64_t n) {
  const VF a = hn::Set(DF(), alpha);
  for (int64_t i = 0; i < n; i += kLanes) {
    Store(hn::MulAdd(a, Load(x + i, n - i), Load(y + i, n - i)), y + i, n - i);
  }
}

void ScaledAddKernel(float alpha, const float* x, float beta, float* y, int64_t n) {
  const VF a = hn::Set(DF(), alpha);
  const VF b = hn::Set(DF(), beta);
  for (int64_t i = 0; i < n; i += kLanes) {
    Store(hn::MulAdd(a, Load(x + i, n - i), hn::Mul(b, Load(y + i, n - i))), y + i, n - i);
  }
}

void ScaleKernel(float alpha, float* y, int64_t n) {
  const VF a = hn::Set(DF(), alpha);
  for (int64_t i = 0; i < n; i += kLanes) Store(hn::Mul(a, Load(y + i, n - i)), y + i, n - i);
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(DotKernel);
HWY_EXPORT(AxpyKernel);
HWY_EXPORT(ScaledAddKernel);
HWY_EXPORT(ScaleKernel);

float Dot(const float* a, const float* b, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(DotKernel)(a, b, n);
}
void Axpy(float alpha, const float* x, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(AxpyKernel)(alpha, x, y, n);
}
void ScaledAdd(float alpha, const float* x, float beta, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(ScaledAddKernel)(alpha, x, beta, y, n);
}
void Scale(float alpha, float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(ScaleKernel)(alpha, y, n); }

}  // namespace palu
#endif
