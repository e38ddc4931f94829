// Packed pages in shared memory (docs/cache-layout.md) to a tile of fp16 elements.
#pragma once

#include "ops/cuda/decode_load.cuh"
#include "ops/cuda/mid_rise.cuh"
#include "ops/cuda/vector.cuh"

namespace palu::cuda {

// A token's scale and zero: latents are (q - offset) * scale + add. 0x6400 is 1024 in fp16, whose
// last bit is worth one: codes and offsets added to it are exact, so is their difference, and what
// follows is rounded once.
struct RunScale {
  __half2 scale, offset, add;

  __device__ RunScale(__half run_scale, uint32_t run_offset, __half run_add)
      : scale(__half2half2(run_scale)),
        offset(__half2half2(__ushort_as_half(static_cast<uint16_t>(0x6400u | run_offset)))),
        add(__half2half2(run_add)) {}

  // Four codes, one per byte.
  __device__ uint2 Dequantize(uint32_t codes) const {
    const uint32_t low = __byte_perm(codes, 0x64646464u, 0x4140);
    const uint32_t high = __byte_perm(codes, 0x64646464u, 0x4342);
    const __half2 x = __hfma2(__hsub2(reinterpret_cast<const __half2&>(low), offset), scale, add);
    const __half2 y = __hfma2(__hsub2(reinterpret_cast<const __half2&>(high), offset), scale, add);
    return {reinterpret_cast<const uint32_t&>(x), reinterpret_cast<const uint32_t&>(y)};
  }
};

// Scales and zeros of a packed page without tiers: its codes may have several runs.
struct PackedScales {
  static constexpr bool kTier = false;  // widths are multiples of 32
  const __half* scales;                 // [64, runs]
  const uint8_t* zeros;                 // [64, runs]; null: `middle`
  int32_t run, runs;
  uint32_t middle;

  __device__ PackedScales(const ProjectionView& p, const std::byte* page, int32_t width)
      : run(p.run == 0 || p.run > width ? width : p.run),
        runs((width + run - 1) / run),
        middle(1u << (p.bits - 1)) {
    const std::byte* at = page + 64 * (width * p.bits / 8);
    scales = reinterpret_cast<const __half*>(at);
    zeros = p.symmetric ? nullptr : reinterpret_cast<const uint8_t*>(at + 64 * runs * 2);
  }
  __device__ int32_t Run(int32_t latent) const { return latent / run; }
  __device__ RunScale At(int32_t row, int32_t in_row) const {
    const int32_t at = row * runs + in_row;
    return {scales[at], zeros ? uint32_t{zeros[at]} : middle, __half{}};
  }
};

// Of a tier: one scale for its whole row. Levels are mid-rise, half a step above q - 2^(bits-1).
struct TierScales {
  static constexpr bool kTier = true;  // widths are multiples of 16, a row has one scale
  const uint8_t* codes;                // [64]
  uint32_t middle;

  __device__ TierScales(const TierView& tier, const std::byte* page)
      : codes(reinterpret_cast<const uint8_t*>(page + 64 * tier.code_bytes())),
        middle(1u << (tier.bits - 1)) {}
  __device__ int32_t Run(int32_t) const { return 0; }
  __device__ RunScale At(int32_t row, int32_t) const {
    const float scale = LoadMidRiseScale(codes[row]);
    return {__float2half_rn(scale), middle, __float2half_rn(0.5f * scale)};
  }
};

// Where `valid` rows of [64, width] latents go; the others become zeros.
struct UnpackTarget {
  __half* to;
  int32_t stride, valid;

  // N times four latents.
  template <int kN>
  __device__ void Store(int32_t row, int32_t column, Elements<uint2, kN> latents) const {
    if (row >= valid) latents = {};
    *reinterpret_cast<Elements<uint2, kN>*>(to + row * stride + column) = latents;
  }
  __device__ void StorePair(int32_t row, int32_t column, uint32_t latents) const {
    *reinterpret_cast<uint32_t*>(to + row * stride + column) = row < valid ? latents : 0;
  }
};

// The same for a tier; rows from `exact` on are read from the window of recent tokens instead.
struct TierTarget {
  UnpackTarget rows;
  const __half* ring;     // the tier's first column of the page's rows, token t in row t % recent
  int32_t ring_stride;    // elements
  int32_t first, recent;  // first: token of row 0
  int32_t exact;

  __device__ const __half* Exact(int32_t row, int32_t column) const {
    return ring + (first + row) % recent * ring_stride + column;
  }
  template <int kN>
  __device__ void Store(int32_t row, int32_t column, Elements<uint2, kN> latents) const {
    if (row >= exact && row < rows.valid) {
      latents = *reinterpret_cast<const Elements<uint2, kN>*>(Exact(row, column));
    }
    rows.Store(row, column, latents);
  }
  __device__ void StorePair(int32_t row, int32_t column, uint32_t latents) const {
    if (row >= exact && row < rows.valid) {
      latents = *reinterpret_cast<const uint32_t*>(Exact(row, column));
    }
    rows.StorePair(row, column, latents);
  }
};

// Codes of kBits, which lie in kPlanes parts of a row: a step takes kBytes bytes, 4 or 8, and gives
// as many latents of every part. 8 bits have one part, 4 two, 2 four.
template <int kBits, int kBytes, class Scales, class Target>
__device__ void UnpackPlanes(const Scales& scales, const std::byte* page, int32_t width,
                             const Target& target) {
  constexpr int kPlanes = 8 / kBits, kWords = kBytes / 4;
  constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;
  const int32_t part = width / kPlanes, row_bytes = width * kBits / 8, columns = part / kBytes;
  const RowWalk walk(columns);
  for (int32_t column = walk.first_column; column < columns; column += walk.across) {
    const int32_t first = column * kBytes;
    int32_t run[kPlanes];  // the same for every row
#pragma unroll
    for (int k = 0; k < kPlanes; ++k) run[k] = scales.Run(k * part + first);
    for (int32_t row = walk.first_row; row < 64; row += walk.row_step) {
      const auto words =
          *reinterpret_cast<const Elements<uint32_t, kWords>*>(page + row * row_bytes + first);
      RunScale fit = scales.At(row, run[0]);
#pragma unroll
      for (int k = 0; k < kPlanes; ++k) {
        if (k > 0 && !Scales::kTier) fit = scales.At(row, run[k]);
        Elements<uint2, kWords> latents;
#pragma unroll
        for (int w = 0; w < kWords; ++w) {
          latents.values[w] = fit.Dequantize((words.values[w] >> (k * kBits)) & kMask);
        }
        target.Store(row, first + k * part, latents);
      }
    }
  }
}

// 3 bits: the low two bits as for 2 bits in parts twice as wide, then the high bits in eight parts.
// A step takes two words of the low bits and one of the high ones; parts are multiples of a word.
template <class Word, class Scales, class Target>
__device__ void UnpackThreeBits(const Scales& scales, const std::byte* page, int32_t width,
                                const Target& target) {
  constexpr int kPlanes = 8, kBytes = sizeof(Word);
  const int32_t part = width / kPlanes, row_bytes = width * 3 / 8, columns = part / kBytes;
  const RowWalk walk(columns);
  for (int32_t column = walk.first_column; column < columns; column += walk.across) {
    const int32_t first = column * kBytes;
    int32_t run[kPlanes];
#pragma unroll
    for (int k = 0; k < kPlanes; ++k) run[k] = scales.Run(k * part + first);
    for (int32_t row = walk.first_row; row < 64; row += walk.row_step) {
      const std::byte* from = page + row * row_bytes + first;
      const auto word = [from](int32_t offset) {
        return uint32_t{*reinterpret_cast<const Word*>(from + offset)};
      };
      const uint32_t low[2] = {word(0), word(part)}, top = word(2 * part);
      RunScale fit = scales.At(row, run[0]);
#pragma unroll
      for (int k = 0; k < kPlanes; ++k) {
        if (k > 0 && !Scales::kTier) fit = scales.At(row, run[k]);
        const uint32_t codes =
            ((low[k % 2] >> (k / 2 * 2)) & 0x03030303u) | (((top >> k) & 0x01010101u) << 2);
        const uint2 latents = fit.Dequantize(codes);
        if constexpr (kBytes == 4) {
          target.Store(row, first + k * part, Elements<uint2, 1>{latents});
        } else {
          target.StorePair(row, first + k * part, latents.x);
        }
      }
    }
  }
}

// A page or a tier of one.
template <class Scales, class Target>
__device__ void UnpackPart(int32_t bits, const Scales& scales, const std::byte* page, int32_t width,
                           const Target& target) {
  const bool narrow = Scales::kTier && width % 32 != 0;
  if (bits == 8) return UnpackPlanes<8, 8>(scales, page, width, target);
  if (bits == 4) return UnpackPlanes<4, 8>(scales, page, width, target);
  if (bits == 2 && !narrow) return UnpackPlanes<2, 8>(scales, page, width, target);
  if (!narrow) return UnpackThreeBits<uint32_t>(scales, page, width, target);
  if constexpr (Scales::kTier) {
    if (bits == 2) return UnpackPlanes<2, 4>(scales, page, width, target);
    UnpackThreeBits<uint16_t>(scales, page, width, target);
  }
}

// land [pages, T/64] of packed pages -> tile [T, TileStride].
__device__ inline void UnpackTile(const ProjectionView& p, const DecodeTile& tile,
                                  int32_t unit_heads, const std::byte* land, std::byte* to) {
  const int32_t pages = UnitPages(p, unit_heads), stride = TileStride(p, unit_heads);
  const int32_t page_bytes = MaxPackedBytes(p), blocks = tile.tokens / 64;
  for (int32_t i = 0; i < pages; ++i) {
    const PageView& view = p.pages[tile.unit * pages + i];
    for (int32_t b = 0; b < blocks; ++b) {
      const std::byte* page = land + (i * blocks + b) * page_bytes;
      __half* out = reinterpret_cast<__half*>(to) + b * 64 * stride + i * p.max_width;
      const int32_t valid = tile.valid() - b * 64;
      if (p.bits != kTiers) {
        const PackedScales scales(p, page, view.width);
        UnpackPart(p.bits, scales, page, view.width, UnpackTarget{out, stride, valid});
        continue;
      }
      const int32_t first = tile.first + b * 64;
      const auto* ring = reinterpret_cast<const __half*>(tile.window + view.window_offset);
      for (int32_t t = 0; t < view.tier_count; ++t) {
        const TierView tier = view.tiers[t];
        const std::byte* codes = page + tier.offset;
        const TierTarget target{{out + tier.column, stride, valid},
                                ring + tier.column,
                                view.width,
                                first,
                                tile.recent,
                                tile.exact - first};
        UnpackPart(tier.bits, TierScales(tier, codes), codes, tier.width, target);
      }
    }
  }
}

}  // namespace palu::cuda
