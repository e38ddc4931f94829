#include "ops/convert.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/convert.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

using DU32 = hn::RebindToUnsigned<DF>;
using VU32 = hn::Vec<DU32>;

HWY_INLINE VF Widen(const BFloat16* p) { return LoadFloat(p); }
HWY_INLINE VF Widen(const Half* p) { return LoadFloatExact(p); }

// The low 16 bits of each lane.
HWY_INLINE void StoreLow(VU32 bits, uint16_t* out) {
  const hn::Rebind<uint16_t, DF> du16;
  const hn::RebindToSigned<DF> di32;
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di32, bits)), du16, out);
}

// The branches of ToBFloat16 and ToHalf in base/half.h, as selections.
HWY_INLINE void Narrow(VF value, BFloat16* out) {
  const DU32 du;
  const VU32 bits = hn::BitCast(du, value);
  const VU32 high = hn::ShiftRight<16>(bits);
  const VU32 odd = hn::And(high, hn::Set(du, 1));
  const VU32 rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF))));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(value));
  StoreLow(hn::IfThenElse(is_nan, hn::Or(high, hn::Set(du, 0x40)), rounded), &out->bits);
}

HWY_INLINE void Narrow(VF value, Half* out) {
  const DU32 du;
  const VU32 bits = hn::BitCast(du, value);
  const VU32 sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000));
  const VU32 magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFF));
  const VU32 rebased = hn::Sub(magnitude, hn::Set(du, 0x38000000));
  const VU32 odd = hn::And(hn::ShiftRight<13>(rebased), hn::Set(du, 1));
  const VU32 normal = hn::ShiftRight<13>(hn::Add(rebased, hn::Add(odd, hn::Set(du, 0xFFF))));
  const VF shifted = hn::Add(hn::BitCast(DF(), magnitude), hn::Set(DF(), 0.5f));
  const VU32 subnormal = hn::Sub(hn::BitCast(du, shifted), hn::Set(du, 0x3F000000));

  VU32 half = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000)), subnormal, normal);
  half = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x477FEFFF)), hn::Set(du, 0x7C00), half);
  half = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7F800000)), hn::Set(du, 0x7E00), half);
  StoreLow(hn::Or(half, sign), &out->bits);
}

template <class T>
void WidenAll(const T* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) hn::StoreU(Widen(in + i), DF(), out + i);
  for (; i < n; ++i) out[i] = palu::ToFloat(in[i]);
}

template <class T>
void NarrowAll(const float* in, int64_t n, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Narrow(LoadFloat(in + i), out + i);
  if (i < n) {
    T rest[kLanes];
    Narrow(LoadPartial(in + i, n - i), rest);
    std::memcpy(out + i, rest, static_cast<size_t>(n - i) * sizeof(T));
  }
}

void WidenHalf(const Half* in, int64_t n, float* out) { WidenAll(in, n, out); }
void WidenBFloat16(const BFloat16* in, int64_t n, float* out) { WidenAll(in, n, out); }
void NarrowHalf(const float* in, int64_t n, Half* out) { NarrowAll(in, n, out); }
void NarrowBFloat16(const float* in, int64_t n, BFloat16* out) { NarrowAll(in, n, out); }

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(WidenHalf);
HWY_EXPORT(WidenBFloat16);
HWY_EXPORT(NarrowHalf);
HWY_EXPORT(NarrowBFloat16);

void ToFloat(const void* in, DType dtype, int64_t n, float* out) {
  switch (dtype) {
    case DType::kF64: {
      const auto* from = static_cast<const double*>(in);
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(from[i]);
      return;
    }
    case DType::kF32:
      std::memmove(out, in, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kF16:
      return HWY_DYNAMIC_DISPATCH(WidenHalf)(static_cast<const Half*>(in), n, out);
    case DType::kBF16:
      return HWY_DYNAMIC_DISPATCH(WidenBFloat16)(static_cast<const BFloat16*>(in), n, out);
  }
}

void ToFloat(const TensorView& in, float* out) { ToFloat(in.data, in.dtype, in.size(), out); }

void FromFloat(const float* in, int64_t n, DType dtype, void* out) {
  switch (dtype) {
    case DType::kF64: {
      auto* to = static_cast<double*>(out);
      for (int64_t i = 0; i < n; ++i) to[i] = static_cast<double>(in[i]);
      return;
    }
    case DType::kF32:
      std::memmove(out, in, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kF16:
      return HWY_DYNAMIC_DISPATCH(NarrowHalf)(in, n, static_cast<Half*>(out));
    case DType::kBF16:
      return HWY_DYNAMIC_DISPATCH(NarrowBFloat16)(in, n, static_cast<BFloat16*>(out));
  }
}

}  // namespace palu
#endif
