// How latents are quantised and how their codes lie in a page (method.md section 3; Palu, ICLR
// 2025, section 3.3). The layout is described in docs/cache-layout.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/half.h"
#include "ops/mid_rise.h"

namespace palu {

// Per token and group of KV heads, over the latent or over runs of it:
//   scale = max(clip (max - min), 1e-5) / (2^b - 1), rounded to fp16
//   zero  = clamp(round(-clip min / scale), 0, 2^b - 1)
//   q     = clamp(round(h / scale) + zero, 0, 2^b - 1), read back as (q - zero) scale
// Symmetric: scale = max(clip max|h|, 1e-5) / (2^(b-1) - 1), zero = 2^(b-1), which is not stored.
// round() is half to even. Scale is rounded first, so that codes fit the scale that is stored.
// Mid-rise (tiers): levels lie evenly around zero, +-scale/2, +-3 scale/2, ..., so that there is no
// zero point; the scale is that power of 2^(1/12), one byte, of a few around the best one for
// normally distributed latents that gives the row the least squared error.
struct LatentQuantization {
  int bits = 16;      // 2, 3, 4 or 8; 16: not quantised
  int64_t group = 0;  // latents that share a scale; 0: all of a token's in a page
  bool symmetric = false;
  double clip_ratio = 1;  // in (0, 1]: extremes are scaled by it
  bool mid_rise = false;  // then neither symmetric nor clip_ratio matters

  bool enabled() const { return bits < 16; }
  int max_code() const { return (1 << bits) - 1; }

  // Latents per scale, and scales per token, of a page `width` latents wide.
  int64_t run(int64_t width) const { return group == 0 || group > width ? width : group; }
  int64_t runs(int64_t width) const { return (width + run(width) - 1) / run(width); }
  // Bytes per run and token.
  int64_t scale_bytes() const { return mid_rise ? 1 : 2; }
  int64_t zero_bytes() const { return mid_rise || symmetric ? 0 : 1; }
  // Bytes per token: codes, and everything.
  int64_t code_bytes(int64_t width) const { return width * bits / 8; }
  int64_t bytes(int64_t width) const {
    return code_bytes(width) + runs(width) * (scale_bytes() + zero_bytes());
  }

  bool operator==(const LatentQuantization&) const = default;
};

// Widths and runs are multiples of this, so that every bit plane of a token fills whole bytes.
inline constexpr int64_t kLatentMultiple = 8;

// Throws Error naming the option for a value outside what LatentQuantization says.
void CheckQuantization(const LatentQuantization& quantization);

// Of a latent's consecutive parts, which are stored one by one: a tier's width and bits.
struct LatentTier {
  int64_t width = 0;
  int bits = 0;

  LatentQuantization quantization() const { return {.bits = bits, .mid_rise = true}; }
  bool operator==(const LatentTier&) const = default;
};

// Widths of tiers are multiples of this, so that all parts of a page fill whole cache lines.
inline constexpr int64_t kTierMultiple = 16;

// The rows of one page from some token on, all arrays one row per token.
struct PackedRows {
  uint8_t* codes = nullptr;  // [tokens, code_bytes]
  Half* scales = nullptr;    // [tokens, runs]
  uint8_t* zeros = nullptr;  // [tokens, runs]; null when symmetric
  int64_t width = 0;
  uint8_t* scale_codes = nullptr;  // [tokens, runs] instead of `scales` when mid-rise
};

// Packs one row of `width` latents. False, with unspecified contents, when one is not finite.
// Ranges beyond what an fp16 scale spans (65504 per step) saturate.
bool QuantizeRow(const LatentQuantization& quantization, const float* latent, PackedRows row);

// codes [tokens, width], one code per byte.
void UnpackCodes(const LatentQuantization& quantization, const PackedRows& rows, int64_t tokens,
                 uint8_t* codes);

// latents [tokens, width] = (q - zero) scale; a row every `stride` floats, 0: every `width`.
void DequantizeRows(const LatentQuantization& quantization, const PackedRows& rows, int64_t tokens,
                    float* latents, int64_t stride = 0);

// Scale and zero of a token's run as numbers to compute with.
struct ScaleZero {
  float scale, zero;
};
inline ScaleZero ScaleOf(const LatentQuantization& quantization, const PackedRows& rows,
                         int64_t token, int64_t run) {
  const int64_t i = token * quantization.runs(rows.width) + run;
  if (quantization.mid_rise) {
    return {MidRiseScale(rows.scale_codes[i]), static_cast<float>(quantization.max_code()) / 2};
  }
  return {ToFloat(rows.scales[i]), rows.zeros != nullptr
                                       ? static_cast<float>(rows.zeros[i])
                                       : static_cast<float>(1 << (quantization.bits - 1))};
}

// The same of `tokens` rows with one scale each: scales and zeros [tokens].
void LoadScales(const LatentQuantization& quantization, const PackedRows& rows, int64_t tokens,
                float* scales, float* zeros);

}  // namespace palu
