#include "ops/latent_quantization.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "ops/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/latent_quantization.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

// The first `count` elements; the lanes after them repeat the first.
HWY_INLINE VF LoadRun(const float* h, int64_t count) {
  if (HWY_LIKELY(count >= kLanes)) return LoadFloat(h);
  return hn::IfThenElse(hn::FirstN(DF(), static_cast<size_t>(count)), LoadPartial(h, count),
                        hn::Set(DF(), *h));
}

// One code per byte of the `count` latents that share a scale. False when one is not finite.
bool QuantizeRunKernel(const LatentQuantization& quantization, const float* h, int64_t count,
                       uint8_t* codes, Half* stored_scale, uint8_t* stored_zero) {
  const DF d;
  VF low = hn::Set(d, h[0]), high = low;
  auto finite = hn::IsFinite(low);
  for (int64_t i = 0; i < count; i += kLanes) {
    const VF v = LoadRun(h + i, count - i);
    finite = hn::And(finite, hn::IsFinite(v));
    low = hn::Min(low, v);
    high = hn::Max(high, v);
  }
  if (!hn::AllTrue(d, finite)) return false;
  const auto clip = static_cast<float>(quantization.clip_ratio);
  const auto top = static_cast<float>(quantization.max_code());
  const float min = hn::GetLane(hn::MinOfLanes(d, low)) * clip;
  const float max = hn::GetLane(hn::MaxOfLanes(d, high)) * clip;
  const auto half = static_cast<float>(1 << (quantization.bits - 1));
  const float exact = quantization.symmetric ? std::max(std::max(max, -min), 1e-5f) / (half - 1)
                                             : std::max(max - min, 1e-5f) / top;
  *stored_scale = ToHalf(std::min(exact, 65504.0f));
  const float scale = palu::ToFloat(*stored_scale);
  float zero = half;
  if (!quantization.symmetric) {
    const float rounded = hn::GetLane(hn::Round(hn::Set(d, -min / scale)));
    zero = std::clamp(rounded, 0.0f, top);
    *stored_zero = static_cast<uint8_t>(zero);
  }
  const hn::RebindToSigned<DF> di32;
  const hn::Rebind<uint8_t, DF> du8;
  for (int64_t i = 0; i < count; i += kLanes) {
    const VF steps = hn::Round(hn::Div(LoadRun(h + i, count - i), hn::Set(d, scale)));
    const VF q = hn::Clamp(hn::Add(steps, hn::Set(d, zero)), hn::Zero(d), hn::Set(d, top));
    const auto bytes = hn::DemoteTo(du8, hn::ConvertTo(di32, q));
    if (HWY_LIKELY(count - i >= kLanes)) {
      hn::StoreU(bytes, du8, codes + i);
    } else {
      uint8_t rest[kLanes];
      hn::StoreU(bytes, du8, rest);
      std::memcpy(codes + i, rest, static_cast<size_t>(count - i));
    }
  }
  return true;
}

using DU8 = hn::CappedTag<uint8_t, 16>;  // the shortest rows of a plane are short
constexpr int64_t kBytes = HWY_MIN(HWY_LANES(uint8_t), 16);

// codes[j + part * n] = bits [part * kBits, + kBits) of plane[j], for j from `j` on in whole
// vectors of [0, n); returns where it stopped.
template <int kBits, class D>
HWY_INLINE int64_t UnpackVectors(D d, const uint8_t* plane, int64_t j, int64_t n, uint8_t* codes) {
  constexpr int kMask = (1 << kBits) - 1;
  constexpr auto kStep = static_cast<int64_t>(hn::MaxLanes(D()));
  const auto mask = hn::Set(d, uint8_t{kMask});
  const auto part = [&](auto v, int64_t at, auto index) HWY_ATTR {
    constexpr int kPart = decltype(index)::value;
    hn::StoreU(hn::And(hn::ShiftRight<kPart * kBits>(v), mask), d, codes + at + kPart * n);
  };
  for (; j + kStep <= n; j += kStep) {
    const auto v = hn::LoadU(d, plane + j);
    part(v, j, std::integral_constant<int, 0>());
    part(v, j, std::integral_constant<int, 1>());
    if constexpr (kBits == 2) {
      part(v, j, std::integral_constant<int, 2>());
      part(v, j, std::integral_constant<int, 3>());
    }
  }
  return j;
}

template <int kBits>
HWY_INLINE void UnpackPlane(const uint8_t* plane, int64_t n, uint8_t* codes) {
  constexpr int kMask = (1 << kBits) - 1;
  int64_t j = UnpackVectors<kBits>(hn::ScalableTag<uint8_t>(), plane, 0, n, codes);
  j = UnpackVectors<kBits>(DU8(), plane, j, n, codes);
  for (; j < n; ++j) {
    for (int p = 0; p < 8 / kBits; ++p) {
      codes[j + p * n] = static_cast<uint8_t>(plane[j] >> (p * kBits) & kMask);
    }
  }
}

// codes[j + part * n] += 4 * bit `part` of plane[j].
HWY_INLINE void AddHighBits(const uint8_t* plane, int64_t n, uint8_t* codes) {
  const DU8 d;
  const auto four = hn::Set(d, uint8_t{4});
  for (int p = 0; p < 8; ++p) {
    const auto bit = hn::Set(d, static_cast<uint8_t>(1 << p));
    uint8_t* out = codes + p * n;
    int64_t j = 0;
    for (; j + kBytes <= n; j += kBytes) {
      const auto set = hn::TestBit(hn::LoadU(d, plane + j), bit);
      hn::StoreU(hn::Or(hn::LoadU(d, out + j), hn::IfThenElseZero(set, four)), d, out + j);
    }
    for (; j < n; ++j) out[j] = static_cast<uint8_t>(out[j] | (plane[j] >> p & 1) << 2);
  }
}

void UnpackKernel(int bits, const uint8_t* packed, int64_t width, int64_t tokens, uint8_t* codes) {
  const int64_t bytes = width * bits / 8;
  for (int64_t t = 0; t < tokens; ++t, packed += bytes, codes += width) {
    switch (bits) {
      case 2:
        UnpackPlane<2>(packed, width / 4, codes);
        break;
      case 3:
        UnpackPlane<2>(packed, width / 4, codes);
        AddHighBits(packed + width / 4, width / 8, codes);
        break;
      case 4:
        UnpackPlane<4>(packed, width / 2, codes);
        break;
      default:
        std::memcpy(codes, packed, static_cast<size_t>(width));
    }
  }
}

void DequantizeRunKernel(const uint8_t* codes, int64_t count, ScaleZero scale_zero, float* out) {
  const DF d;
  const VF scale = hn::Set(d, scale_zero.scale), zero = hn::Set(d, scale_zero.zero);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(hn::Mul(hn::Sub(LoadFloat(codes + i), zero), scale), d, out + i);
  }
  for (; i < count; ++i) {
    out[i] = (static_cast<float>(codes[i]) - scale_zero.zero) * scale_zero.scale;
  }
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(QuantizeRunKernel);
HWY_EXPORT(UnpackKernel);
HWY_EXPORT(DequantizeRunKernel);

namespace {

constexpr int64_t kMaxWidth = 4096;  // unpacked at a time on the stack

// packed[j] = the codes j, j + n, j + 2 n, ... beside each other, from bit 0 on.
void PackPlane(const uint8_t* codes, int bits, int shift, int64_t n, uint8_t* packed) {
  const int mask = (1 << bits) - 1;
  for (int64_t j = 0; j < n; ++j) {
    int byte = 0;
    for (int p = 0; p < 8 / bits; ++p) byte |= (codes[j + p * n] >> shift & mask) << (p * bits);
    packed[j] = static_cast<uint8_t>(byte);
  }
}

void PackCodes(int bits, const uint8_t* codes, int64_t width, uint8_t* packed) {
  switch (bits) {
    case 3:
      PackPlane(codes, 2, 0, width / 4, packed);
      PackPlane(codes, 1, 2, width / 8, packed + width / 4);
      break;
    case 8:
      std::memcpy(packed, codes, static_cast<size_t>(width));
      break;
    default:
      PackPlane(codes, bits, 0, width * bits / 8, packed);
  }
}

}  // namespace

// Mid-rise, in plain loops: products with int conversion vectorise by themselves.

static_assert(kRowLanes % kTierMultiple == 0);

template <class Term>
float SumOverRow(int64_t count, const Term& term) {
  float lanes[kRowLanes] = {};
  int64_t i = 0;
  for (; i + kTierMultiple <= count; i += kTierMultiple) {
    float* some = lanes + i % kRowLanes;
    for (int64_t l = 0; l < kTierMultiple; ++l) some[l] += term(i + l);
  }
  for (; i < count; ++i) lanes[i % kRowLanes] += term(i);
  for (int64_t n = kRowLanes / 2; n > 0; n /= 2) {
    for (int64_t l = 0; l < n; ++l) lanes[l] += lanes[l + n];
  }
  return lanes[0];
}

float MidRiseCode(float h, float inverse, float half, float top) {
  return std::min(std::max(h * inverse + half, 0.0f), top);
}

bool QuantizeMidRise(int bits, const float* h, int64_t count, uint8_t* codes, uint8_t* scale) {
  const float squares = SumOverRow(count, [h](int64_t i) { return h[i] * h[i]; });
  if (!std::isfinite(squares)) return false;
  const auto top = static_cast<float>((1 << bits) - 1);
  const float half = 0.5f * static_cast<float>(1 << bits);
  const float root = std::sqrt(squares / static_cast<float>(count)) * NormalStep(bits);
  const int nearest = NearestScaleCode(std::max(root, 1e-30f));
  float least = std::numeric_limits<float>::infinity();
  *scale = 255;  // of a row so large that every error is infinite
  for (int away = kFirstScaleTried; away <= kLastScaleTried; away += kScaleStride) {
    const auto code = static_cast<uint8_t>(std::clamp(nearest + away, 0, 255));
    const float step = MidRiseScale(code), inverse = 1.0f / step;
    const float error = SumOverRow(count, [=](int64_t i) {
      const int q = static_cast<int>(MidRiseCode(h[i], inverse, half, top));
      const float e = (static_cast<float>(q) + 0.5f - half) * step - h[i];
      return e * e;
    });
    if (error < least) {
      least = error;
      *scale = code;
    }
  }
  const float inverse = 1.0f / MidRiseScale(*scale);
  for (int64_t i = 0; i < count; ++i) {
    codes[i] = static_cast<uint8_t>(MidRiseCode(h[i], inverse, half, top));
  }
  return true;
}

void CheckQuantization(const LatentQuantization& quantization) {
  const int bits = quantization.bits;
  Require(bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16,
          "bits: expected 2, 3, 4, 8 or 16, found {}", bits);
  Require(quantization.group >= 0 && quantization.group % kLatentMultiple == 0,
          "quant-group: expected a multiple of {}, or 0 for one scale per latent, found {}",
          kLatentMultiple, quantization.group);
  Require(quantization.clip_ratio > 0 && quantization.clip_ratio <= 1,
          "clip-ratio: expected a number above 0 and up to 1, found {}", quantization.clip_ratio);
}

bool QuantizeRow(const LatentQuantization& quantization, const float* latent, PackedRows row) {
  uint8_t stack[kMaxWidth];
  std::vector<uint8_t> heap;
  uint8_t* codes = stack;
  if (row.width > kMaxWidth) {
    heap.resize(static_cast<size_t>(row.width));
    codes = heap.data();
  }
  const int64_t run = quantization.run(row.width);
  for (int64_t begin = 0, r = 0; begin < row.width; begin += run, ++r) {
    const float* h = latent + begin;
    const int64_t count = std::min(run, row.width - begin);
    const bool finite =
        quantization.mid_rise
            ? QuantizeMidRise(quantization.bits, h, count, codes + begin, row.scale_codes + r)
            : HWY_DYNAMIC_DISPATCH(QuantizeRunKernel)(
                  quantization, h, count, codes + begin, row.scales + r,
                  row.zeros == nullptr ? nullptr : row.zeros + r);
    if (!finite) return false;
  }
  PackCodes(quantization.bits, codes, row.width, row.codes);
  return true;
}

void UnpackCodes(const LatentQuantization& quantization, const PackedRows& rows, int64_t tokens,
                 uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(UnpackKernel)(quantization.bits, rows.codes, rows.width, tokens, codes);
}

void LoadScales(const LatentQuantization& quantization, const PackedRows& rows, int64_t tokens,
                float* scales, float* zeros) {
  if (quantization.mid_rise) {
    static constexpr auto kScales = [] {
      std::array<float, 256> all{};
      for (int code = 0; code < 256; ++code) {
        all[static_cast<size_t>(code)] = MidRiseScale(static_cast<uint8_t>(code));
      }
      return all;
    }();
    for (int64_t t = 0; t < tokens; ++t) scales[t] = kScales[rows.scale_codes[t]];
    std::fill_n(zeros, tokens, static_cast<float>(quantization.max_code()) / 2);
    return;
  }
  ToFloat(rows.scales, DType::kF16, tokens, scales);
  if (rows.zeros == nullptr) {
    std::fill_n(zeros, tokens, static_cast<float>(1 << (quantization.bits - 1)));
  } else {
    std::copy_n(rows.zeros, tokens, zeros);
  }
}

void DequantizeRows(const LatentQuantization& quantization, const PackedRows& rows, int64_t tokens,
                    float* latents, int64_t stride) {
  if (stride == 0) stride = rows.width;
  const int64_t run = quantization.run(rows.width);
  std::vector<uint8_t> codes(static_cast<size_t>(rows.width));
  for (int64_t t = 0; t < tokens; ++t) {
    PackedRows row = rows;
    row.codes += t * quantization.code_bytes(rows.width);
    UnpackCodes(quantization, row, 1, codes.data());
    for (int64_t begin = 0, r = 0; begin < rows.width; begin += run, ++r) {
      HWY_DYNAMIC_DISPATCH(DequantizeRunKernel)
      (codes.data() + begin, std::min(run, rows.width - begin), ScaleOf(quantization, rows, t, r),
       latents + t * stride + begin);
    }
  }
}

}  // namespace palu
#endif
