// Bodies of the lane kernels that are plain loops over lanes; each instruction set compiles them
// into its own functions.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "ops/cpu/lane_kernels.h"

#define PALU_INLINE inline __attribute__((always_inline))

namespace palu::cpu {

// The project is built without contraction; these are meant to be one instruction each.
PALU_INLINE float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// The integer nearest to x, half to even, for |x| < 2^22: adding 1.5 * 2^23 leaves it in the low
// bits.
PALU_INLINE int32_t Nearest(float x) {
  return std::bit_cast<int32_t>(x + 12582912.0f) - std::bit_cast<int32_t>(12582912.0f);
}

// Bits of magnitudes are ordered as the magnitudes are.
PALU_INLINE float MaxMagnitude(const float* __restrict x, int64_t n) {
  int32_t max = 0;
  for (int64_t i = 0; i < n; ++i) {
    max = std::max(max, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  }
  return std::bit_cast<float>(max);
}

// Rows below what a scale can express become zeros; those with a NaN, too, times a scale of NaN.
PALU_INLINE float Inverse(float scale) {
  return scale >= std::numeric_limits<float>::min() ? 1 / scale : 0;
}

PALU_INLINE void AddPairs(const LanePairs& p) {
  alignas(64) float rotated[kRowGroup][kTileLanes];
  for (int64_t i = 0; i < 2; ++i) {
    const float *x = p.keys + 2 * i * kTileLanes, *y = x + kTileLanes;
    const float *cos = p.cos + i * kTileLanes, *sin = p.sin + i * kTileLanes;
    for (int64_t t = 0; t < kTileLanes; ++t) {
      rotated[2 * i][t] = Fma(x[t], cos[t], -(y[t] * sin[t]));
      rotated[2 * i + 1][t] = Fma(y[t], cos[t], x[t] * sin[t]);
    }
  }
  for (int64_t r = 0; r < p.rows; ++r) {
    const float *qx = p.queries[0] + r * p.query_stride, *qy = p.queries[1] + r * p.query_stride;
    float* __restrict scores = p.scores + r * p.score_stride;
    for (int64_t t = 0; t < kTileLanes; ++t) {
      float score = p.add ? scores[t] : 0.0f;
      score = Fma(qx[0], rotated[0][t], Fma(qy[0], rotated[1][t], score));
      scores[t] = Fma(qx[1], rotated[2][t], Fma(qy[1], rotated[3][t], score));
    }
  }
}

PALU_INLINE void AddWaves(const LaneWaveRows& in) {
  for (int64_t i = in.first; i < in.first + in.count; ++i) {
    const float* wave = in.waves + i % in.terms * in.wave_stride;
    const float* keys = in.keys + (i - in.first) * kTileLanes;
    float* __restrict scores = in.scores + i / in.terms * in.score_stride;
    for (int64_t t = 0; t < kTileLanes; ++t) {
      scores[t] = Fma(wave[t], keys[t], scores[t]);
      if (i % in.terms == in.terms - 1 && in.scales != nullptr) scores[t] *= in.scales[t];
    }
  }
}

PALU_INLINE void ScaleLanes(const float* __restrict scales, float* __restrict scores) {
  for (int64_t t = 0; t < kTileLanes; ++t) scores[t] *= scales[t];
}

// out[t] from the exact sum of one row and token.
PALU_INLINE void FinishRow(const LaneRows& in, int64_t r, int64_t t, int32_t sum) {
  float& out = in.out[r * kTileLanes + t];
  const float x = Fma(-in.zeros[t], in.up_sums[r], static_cast<float>(sum)) * in.up_scales[r];
  if (in.scales == nullptr) {
    out = x;
  } else {
    out = Fma(x, in.scales[t], in.start != nullptr ? in.start[r] : out);
  }
}

PALU_INLINE void Coefficients(const LaneCoefficients& c) {
  const LaneCoefficients in = c;
  float *real = in.out, *imaginary = in.out + in.pairs;
#pragma GCC ivdep
  for (int64_t f = 0; f < in.pairs; ++f) {
    // conj(q) e^{i theta p}, then times c_jf.
    const float a = Fma(in.query[f], in.cos[f], in.query_imaginary[f] * in.sin[f]);
    const float b = Fma(in.query[f], in.sin[f], -(in.query_imaginary[f] * in.cos[f]));
    real[f] = Fma(in.re[f], a, -(in.im[f] * b)) * in.up_scales[f];
    imaginary[f] = -Fma(in.re[f], b, in.im[f] * a) * in.up_scales_imaginary[f];
  }
}

PALU_INLINE PlaneSums SplitPlanes(const float* __restrict x, const int32_t* __restrict weights,
                                  int64_t n, int8_t* __restrict high, int8_t* __restrict low) {
  constexpr int64_t kChunk = 64;
  PlaneSums result{.scale = MaxMagnitude(x, n) / kMostInPlanes};
  const float inverse = Inverse(result.scale);
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    int8_t h[kChunk], l[kChunk];
    const int64_t count = std::min(kChunk, n - begin);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t rounded = Nearest(x[begin + i] * inverse);
      const int32_t top = (rounded + 128) >> 8, rest = rounded - top * 256;
      h[i] = static_cast<int8_t>(top);
      l[i] = static_cast<int8_t>(rest);
      result.high += static_cast<float>(top * weights[begin + i]);
      result.low += static_cast<float>(rest * weights[begin + i]);
    }
    for (int64_t q = 0; q < count / 4; ++q) {
      std::memcpy(high + (begin / 4 + q) * 16, h + 4 * q, 4);
      std::memcpy(low + (begin / 4 + q) * 16, l + 4 * q, 4);
    }
  }
  return result;
}

PALU_INLINE float RoundRow(const float* __restrict x, int64_t n, int8_t* __restrict row,
                           int32_t* sum) {
  constexpr int64_t kChunk = 64;
  const float scale = MaxMagnitude(x, n) / 127;
  const float inverse = Inverse(scale);
  int32_t total = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    int8_t codes[kChunk];
    const int64_t count = std::min(kChunk, n - begin);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t rounded = Nearest(x[begin + i] * inverse);
      codes[i] = static_cast<int8_t>(rounded);
      total += rounded;
    }
    for (int64_t q = 0; q < count / 4; ++q) {
      std::memcpy(row + (begin / 4 + q) * 16, codes + 4 * q, 4);
    }
  }
  *sum = total;
  return scale;
}

PALU_INLINE float Joined(int32_t high, int32_t low, const PlaneSums& planes) {
  return planes.scale *
         Fma(static_cast<float>(high) - planes.high, 256, static_cast<float>(low) - planes.low);
}

PALU_INLINE void JoinPlanes(const int32_t* __restrict high, const int32_t* __restrict low,
                            const PlaneSums& planes, float* __restrict out) {
  for (int64_t i = 0; i < kTileLanes; ++i) out[i] = Joined(high[i], low[i], planes);
}

// Code `i` of a row (docs/cache-layout.md).
PALU_INLINE uint8_t CodeAt(const LaneCodes& in, const uint8_t* row, int64_t i) {
  if (in.bits == 8) return row[i];
  const int kept = in.bits == 4 ? 4 : 2;
  const int64_t plane = in.width * kept / 8;  // bytes
  const int code = row[i % plane] >> (i / plane * kept) & ((1 << kept) - 1);
  if (in.bits != 3) return static_cast<uint8_t>(code);
  const int64_t eighth = in.width / 8;
  return static_cast<uint8_t>(code | (row[plane + i % eighth] >> (i / eighth) & 1) << 2);
}

}  // namespace palu::cpu
