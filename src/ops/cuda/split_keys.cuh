// Codes of keys as operands of a warpgroup's products, which meet all rows W.
#pragma once

#include <type_traits>

#include "ops/cuda/split_pages.cuh"
#include "ops/cuda/wgmma.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// q - zero of four codes, as signed bytes: 128 + q - zero never borrows from its neighbour.
__device__ inline uint32_t Centred(uint32_t codes, uint32_t offset) {
  return (codes + offset) ^ 0x80808080u;
}

__device__ inline uint4 Load16(uint32_t shared) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(shared));
  return x;
}
__device__ inline uint32_t Load4(uint32_t shared) {
  uint32_t x;
  asm volatile("ld.shared.u32 %0, [%1];\n" : "=r"(x) : "r"(shared));
  return x;
}
__device__ inline uint2 Load8(uint32_t shared) {
  uint2 x;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];\n" : "=r"(x.x), "=r"(x.y) : "r"(shared));
  return x;
}
__device__ inline float2 LoadFloat2(uint32_t shared) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];\n" : "=f"(x.x), "=f"(x.y) : "r"(shared));
  return x;
}
__device__ inline uint32_t Word(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}
__device__ inline uint32_t Sub2(uint32_t a, uint32_t b) {
  const __half2 d =
      __hsub2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
  return reinterpret_cast<const uint32_t&>(d);
}

// Operands of one row from a chunk: out[step][half].
template <int kBits>
__device__ inline void UnpackKeys(const uint4& low, const uint4& high, int high_shift,
                                  uint32_t offset, uint32_t (&out)[ChunkSteps(kBits)][2]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t x = Word(low, i);
    if constexpr (kBits == 4) {
      out[i][0] = Centred(x & 0x0F0F0F0Fu, offset);
      out[i][1] = Centred((x >> 4) & 0x0F0F0F0Fu, offset);
    } else if constexpr (kBits == 2 || kBits == 3) {
      const uint32_t top = kBits == 3 ? Word(high, i) >> high_shift : 0;
#pragma unroll
      for (int plane = 0; plane < 4; ++plane) {
        uint32_t codes = (x >> (2 * plane)) & 0x03030303u;
        if constexpr (kBits == 3) codes |= ((top >> (2 * plane)) & 0x01010101u) << 2;
        out[2 * i + plane / 2][plane % 2] = Centred(codes, offset);
      }
    } else if constexpr (kBits == 8) {
      out[i][0] = Sub2(x & 0x00FF00FFu, offset);
      out[i][1] = Sub2((x >> 8) & 0x00FF00FFu, offset);
    } else {
      out[i / 2][i % 2] = x;
    }
  }
}

// What Centred or Sub2 takes for a token's zero.
template <int kBits>
__device__ inline uint32_t ZeroOffset(uint32_t zero) {
  return kBits <= 4 ? 0x80808080u - zero * 0x01010101u : zero * 0x00010001u;
}

// Shared addresses, from the start of a stage, of what a thread reads of keys: its 16 bytes of the
// first chunk of tokens `row` and `row` + 8, and those tokens' scales.
template <int kBits>
struct KeyPlaces {
  uint32_t row_start, row_step, scale;  // of the first token; to the second
  int plane;                            // bytes
  bool symmetric;

  __device__ KeyPlaces(const ProjectionView& p, int width, int row)
      : plane(PlaneBytes(kBits, width)), symmetric(p.symmetric) {
    const int row_bytes = RowBytes(kBits, width);
    row_start = static_cast<uint32_t>(row * row_bytes);
    row_step = static_cast<uint32_t>(8 * row_bytes);
    scale = static_cast<uint32_t>(kTileTokens * row_bytes + row * 2);
  }
};

__device__ inline float LoadHalf(uint32_t shared) {
  uint16_t x;
  asm volatile("ld.shared.u16 %0, [%1];\n" : "=h"(x) : "r"(shared));
  return __half2float(__ushort_as_half(x));
}
__device__ inline uint32_t LoadByte(uint32_t shared) {
  uint32_t x;
  asm volatile("ld.shared.u8 %0, [%1];\n" : "=r"(x) : "r"(shared));
  return x;
}
// The zero that belongs to a scale: behind all scales, one byte per token.
template <int kBits>
__device__ inline uint32_t LoadZero(uint32_t scale, int token, bool symmetric) {
  if (symmetric) return 1u << (kBits - 1);
  return LoadByte(scale + kTileTokens * 2 - static_cast<uint32_t>(token));
}
// A thread's part of a tile's products with kRows rows W.
template <int kBits, int kRows>
struct RowSums {
  std::conditional_t<IntegerRows(kBits), int32_t, float> of[kRows / 2];
};

// A tile's keys as operands.
template <int kBits, int kChunks>
struct KeyOperands {
  static constexpr int kSteps = kChunks * ChunkSteps(kBits);
  uint32_t of[kSteps][4];

  __device__ void Load(uint32_t stage, const KeyPlaces<kBits>& places, int c,
                       const uint32_t (&offsets)[2]) {
#pragma unroll
    for (int i = 0; i < 2 * kChunks; ++i) {
      const int chunk = i / 2, r = i % 2;
      uint32_t out[ChunkSteps(kBits)][2];
      const uint32_t at = stage + places.row_start + r * places.row_step;
      const uint4 low = Load16(at + 16 * c + chunk * kChunkBytes);
      uint4 high = {};
      int shift = 0;
      if constexpr (kBits == 3) {
        const int byte = chunk * kChunkBytes + 16 * c, half = places.plane / 2;
        shift = byte >= half ? 1 : 0;
        high = Load16(at + places.plane + byte - shift * half);
      }
      UnpackKeys<kBits>(low, high, shift, offsets[r], out);
#pragma unroll
      for (int s = 0; s < ChunkSteps(kBits); ++s) {
        of[chunk * ChunkSteps(kBits) + s][r] = out[s][0];
        of[chunk * ChunkSteps(kBits) + s][2 + r] = out[s][1];
      }
    }
  }

  // Starts the products with kRows of the `all` rows of a matrix, from `first` on, which are zero
  // after the first kTaken steps.
  template <int kTaken = kSteps, int kRows>
  __device__ void Multiply(const OperandB& rows, int all, int first,
                           RowSums<kBits, kRows>& sums) const {
    WgmmaFence();
#pragma unroll
    for (int s = 0; s < (kTaken < kSteps ? kTaken : kSteps); ++s) {
      Wgmma(sums.of, of[s], OperandB(rows, s * 32 * all + first * 16), s > 0);
    }
    WgmmaCommit();
  }
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
