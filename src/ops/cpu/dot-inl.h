// The one dot product of this library, blocked in registers: a few float rows against a few stored
// rows at a time.
//
// Order of addition, the same for every output whatever block it is computed in: lane l of one
// accumulator takes elements l, l + N, l + 2N, ... (N lanes; the row's end padded with zeros), and
// the lanes are folded pairwise at the end. That is what makes results batch invariant.
#include "hwy/cache_control.h"
#include "ops/cpu/simd-inl.h"

#if defined(PALU_OPS_CPU_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PALU_OPS_CPU_DOT_INL_H_
#undef PALU_OPS_CPU_DOT_INL_H_
#else
#define PALU_OPS_CPU_DOT_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
// Adds the 128-bit blocks of a vector, upper half to lower half.
template <class V>
HWY_INLINE auto FoldBlocks(V v) {
  const hn::DFromV<V> d;
  if constexpr (hn::MaxLanes(d) <= 4) {
    return v;
  } else {
    const hn::Half<decltype(d)> half;
    return FoldBlocks(hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}
#endif

// out[0..3] = the lane sums of a, b, c and d. Cheaper than four separate reductions, which at head
// dimensions of 64 would cost more than the products.
HWY_INLINE void SumLanes4(VF a, VF b, VF c, VF d, float* out) {
#if HWY_TARGET == HWY_SCALAR
  for (const VF v : {a, b, c, d}) *out++ = hn::GetLane(v);
#else
  const DF df;
  const hn::Simd<float, 4, 0> d4;
  const hn::RepartitionToWide<DF> d64;
  const auto wide = [&](VF v) HWY_ATTR { return hn::BitCast(d64, v); };
  const VF ab = hn::Add(hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b));
  const VF cd = hn::Add(hn::InterleaveLower(df, c, d), hn::InterleaveUpper(df, c, d));
  const VF abcd = hn::Add(hn::BitCast(df, hn::InterleaveLower(d64, wide(ab), wide(cd))),
                          hn::BitCast(df, hn::InterleaveUpper(d64, wide(ab), wide(cd))));
  hn::StoreU(FoldBlocks(abcd), d4, out);
#endif
}

// An address to prefetch. May lie past the array, hence no pointer arithmetic.
template <class T>
HWY_INLINE const T* Ahead(const T* row, int64_t elements) {
  return reinterpret_cast<const T*>(reinterpret_cast<uintptr_t>(row) +
                                    static_cast<uintptr_t>(elements) * sizeof(T));
}

// out[i * kRows + j] = <x_i, row_j> over k elements, for kX float rows `x_stride` apart and kRows
// stored rows; kRows is a multiple of 4. Prefetches the same columns `ahead` elements further on,
// where the next block's rows lie: each row is too short a stream for the hardware to foresee.
template <int kX, int kRows, class T>
HWY_INLINE void DotBlock(const float* x, int64_t x_stride, const T* const* rows, int64_t k,
                         int64_t ahead, float* out) {
  static_assert(kRows % 4 == 0);
  VF sums[kX][kRows];
  for (auto& row_sums : sums) {
    for (VF& sum : row_sums) sum = hn::Zero(DF());
  }
  int64_t c = 0;
  for (; c + kLanes <= k; c += kLanes) {
    VF xs[kX];
#pragma GCC unroll 8
    for (int i = 0; i < kX; ++i) xs[i] = LoadFloat(x + i * x_stride + c);
#pragma GCC unroll 8
    for (int j = 0; j < kRows; ++j) {
      hwy::Prefetch(Ahead(rows[j], c + ahead));
      const VF w = LoadFloat(rows[j] + c);
#pragma GCC unroll 8
      for (int i = 0; i < kX; ++i) sums[i][j] = hn::MulAdd(w, xs[i], sums[i][j]);
    }
  }
  if (c < k) {
    VF xs[kX];
#pragma GCC unroll 8
    for (int i = 0; i < kX; ++i) xs[i] = LoadPartial(x + i * x_stride + c, k - c);
#pragma GCC unroll 8
    for (int j = 0; j < kRows; ++j) {
      const VF w = LoadPartial(rows[j] + c, k - c);
#pragma GCC unroll 8
      for (int i = 0; i < kX; ++i) sums[i][j] = hn::MulAdd(w, xs[i], sums[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kX; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kRows; j += 4) {
      SumLanes4(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3], out + i * kRows + j);
    }
  }
}

}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
