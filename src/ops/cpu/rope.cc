#include "ops/rope.h"

#include "ops/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/rope.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

template <bool kInverse>
HWY_INLINE void Rotate(float* x, int64_t heads, int64_t half, const float* cos, const float* sin) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t count = half - i;
    const VF c = Load(cos + i, count);
    const VF s = kInverse ? hn::Neg(Load(sin + i, count)) : Load(sin + i, count);
    for (int64_t h = 0; h < heads; ++h) {
      float* first = x + h * 2 * half + i;
      float* second = first + half;
      const VF a = Load(first, count);
      const VF b = Load(second, count);
      Store(hn::NegMulAdd(b, s, hn::Mul(a, c)), first, count);
      Store(hn::MulAdd(a, s, hn::Mul(b, c)), second, count);
    }
  }
}

void RotateForward(float* x, int64_t heads, int64_t half, const float* cos, const float* sin) {
  Rotate<false>(x, heads, half, cos, sin);
}
void RotateBack(float* x, int64_t heads, int64_t half, const float* cos, const float* sin) {
  Rotate<true>(x, heads, half, cos, sin);
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(RotateForward);
HWY_EXPORT(RotateBack);

void ApplyRope(float* x, int64_t heads, int64_t half, const float* cos, const float* sin,
               Rotation rotation) {
  if (rotation == Rotation::kForward) {
    HWY_DYNAMIC_DISPATCH(RotateForward)(x, heads, half, cos, sin);
  } else {
    HWY_DYNAMIC_DISPATCH(RotateBack)(x, heads, half, cos, sin);
  }
}

void ApplyRopeRows(const Exec& exec, int64_t heads, MatrixView<const float> cos,
                   MatrixView<const float> sin, MatrixView<float> x, Rotation rotation) {
  assert(x.cols == heads * 2 * cos.cols && x.rows == cos.rows && x.rows == sin.rows);
  ForRanges(exec, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      ApplyRope(x.Row(i), heads, cos.cols, cos.Row(i), sin.Row(i), rotation);
    }
  });
}

}  // namespace palu
#endif
