// exp on vectors of float, within 2 ulp over the whole range, subnormal results included.
#include "ops/cpu/simd-inl.h"

#if defined(PALU_OPS_CPU_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PALU_OPS_CPU_EXP_INL_H_
#undef PALU_OPS_CPU_EXP_INL_H_
#else
#define PALU_OPS_CPU_EXP_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {

// exp(x) = 2^n exp(r), r = x - n ln 2 in [-0.347, 0.347]. The Taylor polynomial of degree 7 leaves
// r^8 / 8! < 6e-9, a twentieth of an ulp; the rest of the bound is rounding in Horner's last steps.
HWY_INLINE VF Exp(VF x) {
  const DF d;
  const hn::RebindToSigned<DF> di;
  const auto is_nan = hn::IsNaN(x);
  // Beyond these exp is infinite or rounds to zero.
  const VF clamped =
      hn::Max(hn::Min(hn::IfThenZeroElse(is_nan, x), hn::Set(d, 89.0f)), hn::Set(d, -104.0f));

  const auto n = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 1.44269504f)));
  const VF nf = hn::ConvertTo(d, n);
  VF r = hn::NegMulAdd(nf, hn::Set(d, 0.693359375f), clamped);  // 355/512: the product is exact
  r = hn::NegMulAdd(nf, hn::Set(d, -2.12194440e-4f), r);

  VF p = hn::Set(d, 1.0f / 5040);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));

  // Two factors, because 2^n itself may be subnormal or overflow where the product does not.
  const auto n1 = hn::ShiftRight<1>(n);
  const auto n2 = hn::Sub(n, n1);
  const auto bias = hn::Set(di, 127);
  const VF scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n1, bias)));
  const VF scale2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n2, bias)));
  return hn::IfThenElse(is_nan, x, hn::Mul(hn::Mul(p, scale1), scale2));
}

}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
