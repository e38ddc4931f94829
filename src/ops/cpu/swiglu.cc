#include "ops/swiglu.h"

#include "ops/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/swiglu.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

void SwiGluRow(const float* up, float* gate, int64_t n) {
  const VF one = hn::Set(DF(), 1.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const VF g = Load(gate + i, n - i);
    const VF silu = hn::Div(g, hn::Add(one, Exp(hn::Neg(g))));
    Store(hn::Mul(silu, Load(up + i, n - i)), gate + i, n - i);
  }
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(SwiGluRow);

void SwiGlu(const Exec& exec, MatrixView<const float> up, MatrixView<float> gate) {
  assert(up.rows == gate.rows && up.cols == gate.cols);
  constexpr int64_t kWorkPerElement = 8;  // exp and a division
  const auto row = HWY_DYNAMIC_DISPATCH(SwiGluRow);
  ForRanges(exec, gate.rows, gate.cols * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) row(up.Row(i), gate.Row(i), gate.cols);
  });
}

}  // namespace palu
#endif
