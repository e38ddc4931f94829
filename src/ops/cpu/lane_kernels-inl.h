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

PALU_INLINE void AddPair(const LanePair& p) {
  alignas(64) float x[kTileLanes], y[kTileLanes];
  for (int64_t t = 0; t < kTileLanes; ++t) {
    const float a = Fma(-p.zeros[t], p.up_sums[0], static_cast<float>(p.sums[0][t]));
    const float b = Fma(-p.zeros[t], p.up_sums[1], static_cast<float>(p.sums[1][t]));
    const float xa = a * p.up_scales[0], yb = b * p.up_scales[1];
    x[t] = Fma(xa, p.cos[t], -(yb * p.sin[t]));
    y[t] = Fma(yb, p.cos[t], xa * p.sin[t]);
  }
  for (int64_t r = 0; r < p.rows; ++r) {
    const float qx = p.queries[0][r * p.query_stride], qy = p.queries[1][r * p.query_stride];
    float* __restrict scores = p.scores + r * p.score_stride;
    for (int64_t t = 0; t < kTileLanes; ++t) {
      scores[t] = Fma(qx, x[t], Fma(qy, y[t], scores[t]));
    }
  }
}

PALU_INLINE void AddWave(const LaneWave& w) {
  float* __restrict scores = w.scores;
  for (int64_t t = 0; t < kTileLanes; ++t) {
    const float product = Fma(-w.zeros[t], w.row_sum, static_cast<float>(w.sums[t]));
    scores[t] = Fma(w.wave[t], product * w.scale, scores[t]);
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
      result.high += top * weights[begin + i];
      result.low += rest * weights[begin + i];
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

PALU_INLINE void JoinPlanes(const int32_t* __restrict high, const int32_t* __restrict low,
                            const PlaneSums& planes, bool add, float* __restrict out) {
  for (int64_t i = 0; i < kTileLanes; ++i) {
    const float joined = planes.scale * Fma(static_cast<float>(high[i] - planes.high), 256,
                                            static_cast<float>(low[i] - planes.low));
    out[i] = add ? out[i] + joined : joined;
  }
}

}  // namespace palu::cpu
