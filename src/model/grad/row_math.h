// Arithmetic on one row, over float and double, in loops that a compiler can vectorise without
// being allowed to reorder sums: reductions run in independent lanes.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace palu::grad {

inline constexpr int64_t kLanes = 16;

inline double Exp(double x) { return std::exp(x); }

// Within 2 ulp on [-87, 88], beyond which it saturates: exp(x) = 2^n exp(r) with |r| <= ln(2)/2 and
// the Taylor series of exp(r), whose first dropped term is below 6e-9.
inline float Exp(float x) {
  constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLn2High = 0.693359375f;   // few bits, so that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + kToInteger;
  const float n = shifted - kToInteger;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kToInteger);
  return p * std::bit_cast<float>((exponent + 127) << 23);
}

template <class T>
T Sigmoid(T x) {
  return T(1) / (T(1) + Exp(-x));
}

template <class T>
T Dot(const T* a, const T* b, int64_t n) {
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  T sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (T lane : lanes) sum += lane;
  return sum;
}

template <class T>
T Max(const T* x, int64_t n) {
  T lanes[kLanes];
  std::fill_n(lanes, kLanes, x[0]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = lanes[j] < x[i + j] ? x[i + j] : lanes[j];
  }
  T max = *std::max_element(lanes, lanes + kLanes);
  for (; i < n; ++i) max = std::max(max, x[i]);
  return max;
}

// x[i] <- exp(x[i] - shift); returns the sum of the results.
template <class T>
T ExpShifted(T* x, int64_t n, T shift) {
  for (int64_t i = 0; i < n; ++i) x[i] = Exp(x[i] - shift);
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += x[i + j];
  }
  T sum = 0;
  for (; i < n; ++i) sum += x[i];
  for (T lane : lanes) sum += lane;
  return sum;
}

template <class T>
void Scale(T* x, int64_t n, T factor) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

}  // namespace palu::grad
