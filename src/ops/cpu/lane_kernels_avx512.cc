#if defined(__x86_64__)
#include <immintrin.h>

#include "ops/cpu/lane_kernels-inl.h"

#ifndef __clang__  // GCC 12 warns of its own headers: intrinsics start from an undefined register
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define PALU_WIDTH ",prefer-vector-width=512"
#else  // clang has no such target, and whole vectors are what the code asks for
#define PALU_WIDTH ""
#endif

#define PALU_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma" PALU_WIDTH)))

namespace palu::cpu {
namespace {

// 16 x 16 elements of 4 bytes: out[d][t] = element d of row t. A masked load leaves out what is
// beyond the row's end.
PALU_TARGET inline void Transpose16(const void* const* rows, int64_t first, __mmask16 mask,
                                    __m512i* out) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int t = 0; t < 16; ++t) {
    a[t] = _mm512_maskz_loadu_epi32(mask, static_cast<const int32_t*>(rows[t]) + first);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  // a[4 k + j]: element 4 l + j of rows 4 k .. 4 k + 3 in 128-bit lane l.
#pragma GCC unroll 4
  for (int k = 0; k < 16; k += 4) {
    a[k] = _mm512_unpacklo_epi64(b[k], b[k + 2]);
    a[k + 1] = _mm512_unpackhi_epi64(b[k], b[k + 2]);
    a[k + 2] = _mm512_unpacklo_epi64(b[k + 1], b[k + 3]);
    a[k + 3] = _mm512_unpackhi_epi64(b[k + 1], b[k + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i lo = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);  // lanes 0, 2 of each
    const __m512i hi = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);  // lanes 1, 3
    const __m512i lo2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i hi2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
    out[j] = _mm512_shuffle_i32x4(lo, lo2, 0x88);
    out[4 + j] = _mm512_shuffle_i32x4(hi, hi2, 0x88);
    out[8 + j] = _mm512_shuffle_i32x4(lo, lo2, 0xdd);
    out[12 + j] = _mm512_shuffle_i32x4(hi, hi2, 0xdd);
  }
}

PALU_TARGET void Transpose(const void* const* rows, int64_t dwords, void* lanes) {
  auto* to = static_cast<int32_t*>(lanes);
  for (int64_t first = 0; first < dwords; first += 16) {
    const int64_t count = std::min<int64_t>(16, dwords - first);
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    for (int64_t t = 0; t < kTileLanes; t += 16) {
      __m512i out[16];
      Transpose16(rows + t, first, mask, out);
      for (int64_t d = 0; d < count; ++d) {
        _mm512_store_si512(to + (first + d) * kTileLanes + t, out[d]);
      }
    }
  }
}

PALU_TARGET void TransposeQuads(const uint8_t* const* rows, uint8_t* lanes) {
  for (int64_t t = 0; t < kTileLanes; t += 4, lanes += 4 * kTileLanes) {
    const __m512i r0 = _mm512_loadu_si512(rows[t]), r1 = _mm512_loadu_si512(rows[t + 1]);
    const __m512i r2 = _mm512_loadu_si512(rows[t + 2]), r3 = _mm512_loadu_si512(rows[t + 3]);
    const __m512i lo01 = _mm512_unpacklo_epi8(r0, r1), hi01 = _mm512_unpackhi_epi8(r0, r1);
    const __m512i lo23 = _mm512_unpacklo_epi8(r2, r3), hi23 = _mm512_unpackhi_epi8(r2, r3);
    const __m512i quads[4] = {_mm512_unpacklo_epi16(lo01, lo23), _mm512_unpackhi_epi16(lo01, lo23),
                              _mm512_unpacklo_epi16(hi01, hi23), _mm512_unpackhi_epi16(hi01, hi23)};
    // Lane l of quads[j] holds latents 16 l + 4 j and the three that follow.
    const __m512i a = _mm512_shuffle_i32x4(quads[0], quads[1], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(quads[2], quads[3], 0x44);
    const __m512i c = _mm512_shuffle_i32x4(quads[0], quads[1], 0xee);
    const __m512i d = _mm512_shuffle_i32x4(quads[2], quads[3], 0xee);
    _mm512_store_si512(lanes, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_store_si512(lanes + 64, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_store_si512(lanes + 128, _mm512_shuffle_i32x4(c, d, 0x88));
    _mm512_store_si512(lanes + 192, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
}

PALU_TARGET void Products(const uint8_t* lanes, const int8_t* rows, int64_t quads, int32_t* sums) {
  __m512i acc[4][4];
#pragma GCC unroll 4
  for (auto& row : acc) {
#pragma GCC unroll 4
    for (__m512i& sum : row) sum = _mm512_setzero_si512();
  }
  for (int64_t q = 0; q < quads; ++q, lanes += 4 * kTileLanes, rows += 4 * kRowGroup) {
    __m512i codes[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) codes[v] = _mm512_load_si512(lanes + 64 * v);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      int quad = 0;
      __builtin_memcpy(&quad, rows + 4 * r, 4);
      const __m512i row = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], codes[v], row);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      _mm512_store_si512(sums + r * kTileLanes + 16 * v, acc[r][v]);
    }
  }
}

PALU_TARGET void AddPairAvx512(const LanePair& p) { AddPair(p); }
PALU_TARGET void AddWaveAvx512(const LaneWave& w) { AddWave(w); }
PALU_TARGET void CoefficientsAvx512(const LaneCoefficients& c) { Coefficients(c); }

// Sixteen integers to bytes, four to each of up to four places 16 bytes apart.
PALU_TARGET inline void StoreQuads(__m512i integers, int64_t count, int8_t* to) {
  alignas(16) int32_t quads[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(quads), _mm512_cvtepi32_epi8(integers));
  for (int64_t q = 0; q < count / 4; ++q) __builtin_memcpy(to + 16 * q, quads + q, 4);
}

PALU_TARGET inline __m512 LoadFirst(const float* x, int64_t count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), x);
}

// As MaxMagnitude: by bits, so that a NaN is larger than any number and stays.
PALU_TARGET inline float Largest(const float* x, int64_t n) {
  __m512i max = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const __m512i bits = _mm512_castps_si512(LoadFirst(x + i, std::min<int64_t>(16, n - i)));
    max = _mm512_max_epi32(max, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
  }
  return std::bit_cast<float>(_mm512_reduce_max_epi32(max));
}

PALU_TARGET inline __m512i RoundAll(__m512 x, float inverse) {
  return _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
}

PALU_TARGET PlaneSums SplitPlanesAvx512(const float* x, const int32_t* weights, int64_t n,
                                        int8_t* high, int8_t* low) {
  PlaneSums result{.scale = Largest(x, n) / kMostInPlanes};
  const float inverse = Inverse(result.scale);
  __m512i high_sum = _mm512_setzero_si512(), low_sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = std::min<int64_t>(16, n - i);
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    const __m512i rounded = RoundAll(LoadFirst(x + i, count), inverse);
    const __m512i top = _mm512_srai_epi32(_mm512_add_epi32(rounded, _mm512_set1_epi32(128)), 8);
    const __m512i rest = _mm512_sub_epi32(rounded, _mm512_slli_epi32(top, 8));
    const __m512i weight = _mm512_maskz_loadu_epi32(mask, weights + i);
    high_sum = _mm512_add_epi32(high_sum, _mm512_mullo_epi32(top, weight));
    low_sum = _mm512_add_epi32(low_sum, _mm512_mullo_epi32(rest, weight));
    StoreQuads(top, count, high + i * 4);
    StoreQuads(rest, count, low + i * 4);
  }
  result.high = _mm512_reduce_add_epi32(high_sum);
  result.low = _mm512_reduce_add_epi32(low_sum);
  return result;
}

PALU_TARGET float RoundRowAvx512(const float* x, int64_t n, int8_t* row, int32_t* sum) {
  const float scale = Largest(x, n) / 127;
  const float inverse = Inverse(scale);
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = std::min<int64_t>(16, n - i);
    const __m512i rounded = RoundAll(LoadFirst(x + i, count), inverse);
    total = _mm512_add_epi32(total, rounded);
    StoreQuads(rounded, count, row + i * 4);
  }
  *sum = _mm512_reduce_add_epi32(total);
  return scale;
}

PALU_TARGET void JoinPlanesAvx512(const int32_t* high, const int32_t* low, const PlaneSums& planes,
                                  bool add, float* out) {
  JoinPlanes(high, low, planes, add, out);
}

}  // namespace

const LaneKernels& Avx512LaneKernels() {
  static constexpr LaneKernels kKernels = {
      .transpose = Transpose,
      .transpose_quads = TransposeQuads,
      .products = Products,
      .add_pair = AddPairAvx512,
      .add_wave = AddWaveAvx512,
      .coefficients = CoefficientsAvx512,
      .split_planes = SplitPlanesAvx512,
      .round_row = RoundRowAvx512,
      .join_planes = JoinPlanesAvx512,
  };
  return kKernels;
}

}  // namespace palu::cpu
#endif
