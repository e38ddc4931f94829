// The scales of mid-rise quantisers (ops/latent_quantization.h): powers of 2^(1/12) made from
// twelve constants and exact operations, so that every machine and device has the same ones.
#pragma once

#include <bit>
#include <cstdint>

namespace palu {

// What a stored byte of scale stands for: 2^((code - 160) / 12).
constexpr float MidRiseScale(uint8_t code) {
  constexpr float kTwelfths[12] = {1.0f,        1.05946314f, 1.12246203f, 1.18920708f,
                                   1.25992107f, 1.33483982f, 1.41421354f, 1.49830711f,
                                   1.58740103f, 1.68179286f, 1.78179741f, 1.8877486f};
  const int steps = code + 8;  // from 2^-14 on
  return kTwelfths[steps % 12] * std::bit_cast<float>((steps / 12 + 113) << 23);
}

// The code, not yet limited to a byte, whose scale is the nearest to `step` as a ratio; `step` is
// positive and no subnormal number.
constexpr int NearestScaleCode(float step) {
  // The fractions of 2^((k + 1/2) / 12), rounded down.
  constexpr uint32_t kBorders[12] = {0x03c02c, 0x0b95c1, 0x13e298, 0x1cadc9, 0x25fed6, 0x2fddb6,
                                     0x3a52d7, 0x45672a, 0x512424, 0x5d93cd, 0x6ac0c6, 0x78b651};
  const auto bits = std::bit_cast<uint32_t>(step);
  int code = 160 + 12 * (static_cast<int>(bits >> 23) - 127);
  for (const uint32_t border : kBorders) code += (bits & 0x7FFFFF) > border;
  return code;
}

// The scales tried for a row lie this many codes from the one that suits its root mean square: a
// row with an outlier wants wider steps, a flat one narrower.
inline constexpr int kFirstScaleTried = -6, kLastScaleTried = 4, kScaleStride = 2;

// The step of the uniform quantiser with 2^bits levels that has the least mean squared error for
// the normal distribution of variance 1 (Max, Quantizing for minimum distortion, 1960, table II;
// 8 bits: Hui and Neuhoff, 2001, table I).
constexpr float NormalStep(int bits) {
  return bits == 2 ? 0.9957f : bits == 3 ? 0.5860f : bits == 4 ? 0.3352f : 0.0308f;
}

// Sums over a row are taken in this many lanes, latent i in lane i % kRowLanes, whose sums are then
// added by halves: the order of a warp on a GPU.
inline constexpr int kRowLanes = 32;

}  // namespace palu
