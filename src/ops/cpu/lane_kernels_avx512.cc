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

// A row's words [first, first + 16) of 64 rows, 16 tokens at a time: emit(word, token, tokens).
template <class Emit>
PALU_TARGET inline void ForWords(const LaneCodes& in, int64_t offset, int64_t words,
                                 const Emit& emit) {
  for (int64_t first = 0; first < words; first += 16) {
    const int64_t count = std::min<int64_t>(16, words - first);
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    for (int64_t t = 0; t < kTileLanes; t += 16) {
      const void* rows[16];
      for (int64_t i = 0; i < 16; ++i) rows[i] = in.packed + (t + i) * in.bytes + offset;
      __m512i out[16];
      Transpose16(rows, first, mask, out);
      for (int64_t w = 0; w < count; ++w) emit(first + w, t, out[w]);
    }
  }
}

// Of every byte, kBits bits from bit kBits * part on.
template <int kBits>
PALU_TARGET inline __m512i Part(__m512i bytes, int part) {
  constexpr int kMask = (1 << kBits) - 1;
  return _mm512_and_si512(_mm512_srl_epi16(bytes, _mm_cvtsi32_si128(kBits * part)),
                          _mm512_set1_epi8(static_cast<char>(kMask)));
}

template <int kBits>
PALU_TARGET inline void LoadPlane(const LaneCodes& in, uint8_t* lanes) {
  const int64_t words = in.width * kBits / 32;
  ForWords(in, 0, words, [&](int64_t word, int64_t t, __m512i bytes) PALU_TARGET {
#pragma GCC unroll 4
    for (int part = 0; part < 8 / kBits; ++part) {
      _mm512_store_si512(lanes + ((word + part * words) * kTileLanes + t) * 4,
                         Part<kBits>(bytes, part));
    }
  });
}

PALU_TARGET void LoadCodesAvx512(const LaneCodes& in, uint8_t* lanes) {
  if (in.bits == 8) {
    ForWords(in, 0, in.width / 4, [&](int64_t word, int64_t t, __m512i bytes) PALU_TARGET {
      _mm512_store_si512(lanes + (word * kTileLanes + t) * 4, bytes);
    });
    return;
  }
  if (in.bits == 4) return LoadPlane<4>(in, lanes);
  LoadPlane<2>(in, lanes);
  if (in.bits == 2) return;
  const int64_t words = in.width / 32;
  ForWords(in, in.width / 4, words, [&](int64_t word, int64_t t, __m512i bytes) PALU_TARGET {
    for (int part = 0; part < 8; ++part) {
      uint8_t* to = lanes + ((word + part * words) * kTileLanes + t) * 4;
      const __m512i bit = _mm512_slli_epi16(Part<1>(bytes, part), 2);
      _mm512_store_si512(to, _mm512_or_si512(_mm512_load_si512(to), bit));
    }
  });
}

// Up to 64 bytes of four rows side by side: quads[j] holds bytes [16 j, 16 (j + 1)) of each.
PALU_TARGET inline void JoinTokens(const uint8_t* row, int64_t stride, __mmask64 mask,
                                   __m512i* quads) {
  const __m512i r0 = _mm512_maskz_loadu_epi8(mask, row);
  const __m512i r1 = _mm512_maskz_loadu_epi8(mask, row + stride);
  const __m512i r2 = _mm512_maskz_loadu_epi8(mask, row + 2 * stride);
  const __m512i r3 = _mm512_maskz_loadu_epi8(mask, row + 3 * stride);
  const __m512i lo01 = _mm512_unpacklo_epi8(r0, r1), hi01 = _mm512_unpackhi_epi8(r0, r1);
  const __m512i lo23 = _mm512_unpacklo_epi8(r2, r3), hi23 = _mm512_unpackhi_epi8(r2, r3);
  // Lane l of the j-th holds bytes 16 l + 4 j and the three that follow.
  const __m512i q0 = _mm512_unpacklo_epi16(lo01, lo23), q1 = _mm512_unpackhi_epi16(lo01, lo23);
  const __m512i q2 = _mm512_unpacklo_epi16(hi01, hi23), q3 = _mm512_unpackhi_epi16(hi01, hi23);
  const __m512i a = _mm512_shuffle_i32x4(q0, q1, 0x44), b = _mm512_shuffle_i32x4(q2, q3, 0x44);
  const __m512i c = _mm512_shuffle_i32x4(q0, q1, 0xee), d = _mm512_shuffle_i32x4(q2, q3, 0xee);
  quads[0] = _mm512_shuffle_i32x4(a, b, 0x88);
  quads[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
  quads[2] = _mm512_shuffle_i32x4(c, d, 0x88);
  quads[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

PALU_TARGET inline __mmask64 FirstBytes(int64_t count) {
  return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
}

PALU_TARGET inline __mmask16 FirstLanes(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff)
                     : static_cast<__mmask16>((1u << std::max<int64_t>(count, 0)) - 1);
}

// Columns part * plane + byte from the bytes of a plane.
template <int kBits>
PALU_TARGET inline void LoadValuePlane(const LaneCodes& in, int64_t stride, uint8_t* lanes) {
  const int64_t plane = in.width * kBits / 8;
  for (int64_t begin = 0; begin < plane; begin += 64) {
    const int64_t count = std::min<int64_t>(64, plane - begin);
    for (int64_t t = 0; t < kTileLanes; t += 4) {
      __m512i quads[4];
      JoinTokens(in.packed + t * in.bytes + begin, in.bytes, FirstBytes(count), quads);
      uint8_t* to = lanes + t / 4 * stride + 4 * begin;
      for (int64_t i = 0; 16 * i < count; ++i) {
#pragma GCC unroll 4
        for (int part = 0; part < 8 / kBits; ++part) {
          _mm512_mask_storeu_epi32(to + 4 * (part * plane + 16 * i), FirstLanes(count - 16 * i),
                                   Part<kBits>(quads[i], part));
        }
      }
    }
  }
}

PALU_TARGET void LoadValuesAvx512(const LaneCodes& in, int64_t stride, uint8_t* lanes) {
  if (in.bits == 8) return LoadValuePlane<8>(in, stride, lanes);
  if (in.bits == 4) return LoadValuePlane<4>(in, stride, lanes);
  LoadValuePlane<2>(in, stride, lanes);
  if (in.bits == 2) return;
  const int64_t plane = in.width / 8;  // of the high bits
  for (int64_t begin = 0; begin < plane; begin += 64) {
    const int64_t count = std::min<int64_t>(64, plane - begin);
    for (int64_t t = 0; t < kTileLanes; t += 4) {
      __m512i quads[4];
      JoinTokens(in.packed + t * in.bytes + in.width / 4 + begin, in.bytes, FirstBytes(count),
                 quads);
      uint8_t* to = lanes + t / 4 * stride + 4 * begin;
      for (int64_t i = 0; 16 * i < count; ++i) {
        const __mmask16 mask = FirstLanes(count - 16 * i);
        for (int part = 0; part < 8; ++part) {
          uint8_t* at = to + 4 * (part * plane + 16 * i);
          const __m512i bit = _mm512_slli_epi16(Part<1>(quads[i], part), 2);
          const __m512i low = _mm512_maskz_loadu_epi32(mask, at);
          _mm512_mask_storeu_epi32(at, mask, _mm512_or_si512(low, bit));
        }
      }
    }
  }
}

// Exact sums of four rows and 16 kVecs lanes; the lanes' next quad lies `stride` bytes further on.
template <int kVecs>
PALU_TARGET inline void Multiply(const uint8_t* lanes, int64_t stride, const int8_t* rows,
                                 int64_t quads, __m512i (&sums)[kRowGroup][kVecs]) {
#pragma GCC unroll 4
  for (auto& row : sums) {
#pragma GCC unroll 4
    for (__m512i& sum : row) sum = _mm512_setzero_si512();
  }
  for (int64_t q = 0; q < quads; ++q, lanes += stride, rows += 4 * kRowGroup) {
    __m512i codes[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) codes[v] = _mm512_loadu_si512(lanes + 64 * v);
#pragma GCC unroll 4
    for (int r = 0; r < kRowGroup; ++r) {
      int quad = 0;
      __builtin_memcpy(&quad, rows + 4 * r, 4);
      const __m512i row = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], codes[v], row);
    }
  }
}

PALU_TARGET void Products(const uint8_t* lanes, const int8_t* rows, int64_t quads, int32_t* out) {
  __m512i sums[kRowGroup][4];
  Multiply(lanes, 4 * kTileLanes, rows, quads, sums);
#pragma GCC unroll 4
  for (int r = 0; r < kRowGroup; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) _mm512_store_si512(out + r * kTileLanes + 16 * v, sums[r][v]);
  }
}

// As FinishRow.
PALU_TARGET void AddRowsAvx512(const LaneRows& in) {
  __m512i sums[kRowGroup][4];
  Multiply(in.codes, 4 * kTileLanes, in.rows, in.quads, sums);
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    const __m512 zeros = _mm512_load_ps(in.zeros + 16 * v);
#pragma GCC unroll 4
    for (int r = 0; r < kRowGroup; ++r) {
      float* out = in.out + r * kTileLanes + 16 * v;
      const __m512 exact =
          _mm512_fnmadd_ps(zeros, _mm512_set1_ps(in.up_sums[r]), _mm512_cvtepi32_ps(sums[r][v]));
      const __m512 x = _mm512_mul_ps(exact, _mm512_set1_ps(in.up_scales[r]));
      if (in.scales == nullptr) {
        _mm512_store_ps(out, x);
        continue;
      }
      const __m512 start = in.start != nullptr ? _mm512_set1_ps(in.start[r]) : _mm512_load_ps(out);
      _mm512_store_ps(out, _mm512_fmadd_ps(x, _mm512_load_ps(in.scales + 16 * v), start));
    }
  }
}

// As AddPairs, kRows queries from the given one on.
template <int kRows, bool kAdd>
PALU_TARGET inline void AddPairsOf(const LanePairs& in, int64_t row) {
  const LanePairs p = in;  // which no store can change
  __m512 q[kRows][kRowGroup];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < kRowGroup; ++i) {
      q[r][i] = _mm512_set1_ps(p.queries[i % 2][(row + r) * p.query_stride + i / 2]);
    }
  }
  float* scores = p.scores + row * p.score_stride;
  for (int64_t v = 0; v < kTileLanes; v += 16) {
    __m512 rotated[kRowGroup];
#pragma GCC unroll 2
    for (int64_t i = 0; i < 2; ++i) {
      const __m512 x = _mm512_load_ps(p.keys + 2 * i * kTileLanes + v);
      const __m512 y = _mm512_load_ps(p.keys + (2 * i + 1) * kTileLanes + v);
      const __m512 cos = _mm512_load_ps(p.cos + i * kTileLanes + v);
      const __m512 sin = _mm512_load_ps(p.sin + i * kTileLanes + v);
      rotated[2 * i] = _mm512_fmsub_ps(x, cos, _mm512_mul_ps(y, sin));
      rotated[2 * i + 1] = _mm512_fmadd_ps(y, cos, _mm512_mul_ps(x, sin));
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      float* out = scores + r * p.score_stride + v;
      __m512 score = kAdd ? _mm512_loadu_ps(out) : _mm512_setzero_ps();
      score = _mm512_fmadd_ps(q[r][1], rotated[1], score);
      score = _mm512_fmadd_ps(q[r][0], rotated[0], score);
      score = _mm512_fmadd_ps(q[r][3], rotated[3], score);
      score = _mm512_fmadd_ps(q[r][2], rotated[2], score);
      _mm512_storeu_ps(out, score);
    }
  }
}

template <bool kAdd>
PALU_TARGET inline void AddPairsTo(const LanePairs& p) {
  int64_t r = 0;
  for (; r + 4 <= p.rows; r += 4) AddPairsOf<4, kAdd>(p, r);
  for (; r + 2 <= p.rows; r += 2) AddPairsOf<2, kAdd>(p, r);
  for (; r < p.rows; ++r) AddPairsOf<1, kAdd>(p, r);
}

PALU_TARGET void AddPairsAvx512(const LanePairs& p) {
  if (p.add) return AddPairsTo<true>(p);
  AddPairsTo<false>(p);
}

// As AddWaves.
PALU_TARGET void AddWavesAvx512(const LaneWaveRows& rows_of) {
  const LaneWaveRows in = rows_of;
  for (int64_t i = in.first, end = in.first + in.count; i < end;) {
    const int64_t query = i / in.terms, term = i % in.terms;
    const int64_t rows = std::min(end - i, in.terms - term);
    const bool last = term + rows == in.terms && in.scales != nullptr;
    float* scores = in.scores + query * in.score_stride;
    for (int64_t v = 0; v < kTileLanes; v += 16) {
      __m512 score = _mm512_loadu_ps(scores + v);
      for (int64_t j = 0; j < rows; ++j) {
        const __m512 wave = _mm512_loadu_ps(in.waves + (term + j) * in.wave_stride + v);
        const __m512 key = _mm512_load_ps(in.keys + (i - in.first + j) * kTileLanes + v);
        score = _mm512_fmadd_ps(wave, key, score);
      }
      if (last) score = _mm512_mul_ps(score, _mm512_load_ps(in.scales + v));
      _mm512_storeu_ps(scores + v, score);
    }
    i += rows;
  }
}

PALU_TARGET void ScaleLanesAvx512(const float* scales, float* scores) {
  ScaleLanes(scales, scores);
}
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
  result.high = static_cast<float>(_mm512_reduce_add_epi32(high_sum));
  result.low = static_cast<float>(_mm512_reduce_add_epi32(low_sum));
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
                                  float* out) {
  JoinPlanes(high, low, planes, out);
}

// Entries of four quads of four rows, from 16 integers of each.
PALU_TARGET inline void StoreGroup(const __m512i (&rows)[kRowGroup], int8_t* to) {
  const __m128i h0 = _mm512_cvtepi32_epi8(rows[0]), l0 = _mm512_cvtepi32_epi8(rows[1]);
  const __m128i h1 = _mm512_cvtepi32_epi8(rows[2]), l1 = _mm512_cvtepi32_epi8(rows[3]);
  const __m128i a = _mm_unpacklo_epi32(h0, l0), b = _mm_unpacklo_epi32(h1, l1);
  const __m128i c = _mm_unpackhi_epi32(h0, l0), d = _mm_unpackhi_epi32(h1, l1);
  auto* quads = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(quads, _mm_unpacklo_epi64(a, b));
  _mm_storeu_si128(quads + 1, _mm_unpackhi_epi64(a, b));
  _mm_storeu_si128(quads + 2, _mm_unpacklo_epi64(c, d));
  _mm_storeu_si128(quads + 3, _mm_unpackhi_epi64(c, d));
}

PALU_TARGET void SplitWeightsAvx512(const LaneWeights& in, PlaneSums* sums) {
  constexpr int kVecs = kTileLanes / 16;
  __m512 x[2][kVecs], inverse[2], high_sum[2], low_sum[2];
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    __m512i max = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const __mmask16 mask = in.p[k] != nullptr ? FirstLanes(in.tokens - 16 * v) : __mmask16{0};
      x[k][v] = _mm512_maskz_mul_ps(mask, _mm512_maskz_loadu_ps(mask, in.p[k] + 16 * v),
                                    _mm512_load_ps(in.scales + 16 * v));
      const __m512i bits = _mm512_castps_si512(x[k][v]);
      max = _mm512_max_epi32(max, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    sums[k].scale = std::bit_cast<float>(_mm512_reduce_max_epi32(max)) / kMostInPlanes;
    inverse[k] = _mm512_set1_ps(Inverse(sums[k].scale));
    high_sum[k] = low_sum[k] = _mm512_setzero_ps();
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const __m512 zeros = _mm512_load_ps(in.zeros + 16 * v);
    __m512i rows[kRowGroup];
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(x[k][v], inverse[k]));
      const __m512i top = _mm512_srai_epi32(_mm512_add_epi32(rounded, _mm512_set1_epi32(128)), 8);
      rows[2 * k] = top;
      rows[2 * k + 1] = _mm512_sub_epi32(rounded, _mm512_slli_epi32(top, 8));
      high_sum[k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rows[2 * k]), zeros, high_sum[k]);
      low_sum[k] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(rows[2 * k + 1]), zeros, low_sum[k]);
    }
    StoreGroup(rows, in.planes + 64 * v);
  }
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    sums[k].high = _mm512_reduce_add_ps(high_sum[k]);
    sums[k].low = _mm512_reduce_add_ps(low_sum[k]);
  }
}

template <int kVecs>
PALU_TARGET inline void AddValueVectors(const LaneValues& in) {
  __m512i sums[kRowGroup][kVecs];
  Multiply(in.lanes, in.stride, in.planes, kTileLanes / 4, sums);
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    if (in.acc[k] == nullptr) break;
    const PlaneSums& planes = in.sums[k];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const __m512 high =
          _mm512_sub_ps(_mm512_cvtepi32_ps(sums[2 * k][v]), _mm512_set1_ps(planes.high));
      const __m512 low =
          _mm512_sub_ps(_mm512_cvtepi32_ps(sums[2 * k + 1][v]), _mm512_set1_ps(planes.low));
      const __m512 joined = _mm512_mul_ps(_mm512_set1_ps(planes.scale),
                                          _mm512_fmadd_ps(high, _mm512_set1_ps(256), low));
      const __mmask16 mask = FirstLanes(in.count - 16 * v);
      float* acc = in.acc[k] + 16 * v;
      _mm512_mask_storeu_ps(acc, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, acc), joined));
    }
  }
}

PALU_TARGET void AddValuesAvx512(const LaneValues& in) {
  switch ((in.count + 15) / 16) {
    case 1:
      return AddValueVectors<1>(in);
    case 2:
      return AddValueVectors<2>(in);
    case 3:
      return AddValueVectors<3>(in);
    default:
      return AddValueVectors<4>(in);
  }
}

}  // namespace

const LaneKernels& Avx512LaneKernels() {
  static constexpr LaneKernels kKernels = {
      .transpose = Transpose,
      .load_codes = LoadCodesAvx512,
      .load_values = LoadValuesAvx512,
      .products = Products,
      .add_rows = AddRowsAvx512,
      .add_pairs = AddPairsAvx512,
      .add_waves = AddWavesAvx512,
      .scale_lanes = ScaleLanesAvx512,
      .coefficients = CoefficientsAvx512,
      .split_planes = SplitPlanesAvx512,
      .round_row = RoundRowAvx512,
      .join_planes = JoinPlanesAvx512,
      .split_weights = SplitWeightsAvx512,
      .add_values = AddValuesAvx512,
  };
  return kKernels;
}

}  // namespace palu::cpu
#endif
