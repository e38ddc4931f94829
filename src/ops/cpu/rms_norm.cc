#include "ops/rms_norm.h"

#include <cmath>

#include "base/error.h"
#include "ops/convert.h"
#include "ops/parallel.h"
#include "ops/vector.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/rms_norm.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

// y = x * scale * weight
void ScaleByWeight(const float* x, float scale, const float* weight, int64_t n, float* y) {
  const VF s = hn::Set(DF(), scale);
  for (int64_t i = 0; i < n; i += kLanes) {
    Store(hn::Mul(hn::Mul(Load(x + i, n - i), s), Load(weight + i, n - i)), y + i, n - i);
  }
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(ScaleByWeight);

namespace {

void NormalizeVector(const float* x, const float* weight, int64_t n, double eps, float* y) {
  const double mean_square = static_cast<double>(Dot(x, x, n)) / static_cast<double>(n);
  const float scale = static_cast<float>(1.0 / std::sqrt(mean_square + eps));
  HWY_DYNAMIC_DISPATCH(ScaleByWeight)(x, scale, weight, n, y);
}

// The weight as float; converted only when it is stored otherwise.
const float* WeightAsFloat(const TensorView& weight, int64_t expected,
                           AlignedBuffer<float>* buffer) {
  Require(weight.size() == expected, "RMS norm of vectors of {} has a weight of shape {}", expected,
          ToString(weight.shape));
  if (weight.dtype == DType::kF32) return weight.As<float>();
  buffer->Resize(expected);
  ToFloat(weight, buffer->data());
  return buffer->data();
}

}  // namespace

void RmsNorm(const Exec& exec, MatrixView<const float> x, const TensorView& weight, double eps,
             MatrixView<float> y) {
  assert(x.rows == y.rows && x.cols == y.cols);
  AlignedBuffer<float> buffer;
  const float* w = WeightAsFloat(weight, x.cols, &buffer);
  ForRanges(exec, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) NormalizeVector(x.Row(i), w, x.cols, eps, y.Row(i));
  });
}

void RmsNormHeads(const Exec& exec, const TensorView& weight, double eps, MatrixView<float> x) {
  const int64_t d = weight.size();
  assert(d > 0 && x.cols % d == 0);
  AlignedBuffer<float> buffer;
  const float* w = WeightAsFloat(weight, d, &buffer);
  ForRanges(exec, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (float* head = x.Row(i); head < x.Row(i) + x.cols; head += d) {
        NormalizeVector(head, w, d, eps, head);
      }
    }
  });
}

}  // namespace palu
#endif
