// Codes of values as operands of their product with the weights.
#pragma once

#include "ops/cuda/split_keys.cuh"

namespace palu::cuda {

// Latents that a word of the first plane gives a lane, in tiles of 16 for the product.
__host__ __device__ constexpr int WordTiles(int bits) {
  return bits == 16 ? 1 : bits == 8 ? 2 : bits == 4 ? 4 : 8;
}

// How the warps of the value group share the columns of a page of at most kWidth latents: sets of
// 32 bytes of a row's first plane, which are `kUnits` for a warp; where there are fewer sets than
// warps, two warps have each half of a set's tiles.
template <int kBits, int kWidth>
struct ValueShare {
  static constexpr int kSets = PlaneBytes(kBits, kWidth) / 32;
  static constexpr int kParts = kSets <= 2 ? 2 : 1;
  static constexpr int kUnits = (kSets + 3) / 4;
  static constexpr int kUnitTiles = WordTiles(kBits) / kParts;
  static constexpr int kTiles = kUnits * kUnitTiles;  // of a warp's sums
  static_assert(kUnitTiles >= 1);
  int part, first_set;

  __device__ explicit ValueShare(int warp)
      : part(kParts == 1 ? 0 : warp / 2), first_set(kParts == 1 ? warp : warp % 2) {}
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Bytes 0 and 1, or 2 and 3, of two tokens' words.
__device__ inline uint32_t HalfWords(uint32_t first, uint32_t second, int half) {
  return __byte_perm(first, second, half == 0 ? 0x5410 : 0x7632);
}

// Codes of two tokens as fp16 numbers q 2^-24 times the power of two of their plane: tile t has one
// latent in the operand's first eight rows and one in the last. Of half a word, which gives half of
// its tiles.
template <int kBits>
__device__ inline void UnpackValues(uint32_t x, uint32_t top, int shift,
                                    uint32_t (&out)[WordTiles(kBits) / 2][2]) {
  if constexpr (kBits == 8) {
    out[0][0] = x & 0x00FF00FFu;
    out[0][1] = (x >> 8) & 0x00FF00FFu;
  } else if constexpr (kBits == 4) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const uint32_t y = x >> (8 * b);
      out[b][0] = y & 0x000F000Fu;
      out[b][1] = y & 0x00F000F0u;
    }
  } else {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const uint32_t y = x >> (8 * b), z = (top >> (8 * b)) >> shift;
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        uint32_t code = y & (0x00030003u << (2 * p));
        if constexpr (kBits == 3) code |= (z & (0x00010001u << (2 * p))) << 2;
        out[2 * b + p / 2][p % 2] = code;
      }
    }
  }
}

// The latent of an operand's row of a lane, given the byte (of the first plane) of its word, and
// the power of two by which its codes are too large.
template <int kBits>
__device__ inline int ValueLatent(int plane_bytes, int byte, int tile, int upper, float& factor) {
  factor = kDenormal;
  if constexpr (kBits == 16) {
    factor = 1;
    return byte / 2 + upper;
  } else if constexpr (kBits == 8) {
    return byte + 2 * tile + upper;
  } else if constexpr (kBits == 4) {
    if (upper) factor /= 16;
    return upper * plane_bytes + byte + tile;
  } else {
    const int plane = tile % 2 * 2 + upper;
    factor /= static_cast<float>(1 << (2 * plane));
    return plane * plane_bytes + byte + tile / 2;
  }
}

// Shared addresses, from the start of a stage, of what a lane reads of the first step of 16 tokens:
// of tokens 16 c, 16 c + 1, 16 c + 2 and 16 c + 3 its first set's word. The next steps are the
// tokens behind them, so that lanes meet all banks.
struct ValuePlaces {
  uint32_t word, row_bytes;

  __device__ ValuePlaces(int row_bytes, int first_set, int lane)
      : word(static_cast<uint32_t>(StagedRow(row_bytes, lane % 4 * kGroupRows) + first_set * 32 +
                                   lane / 4 * 4)),
        row_bytes(static_cast<uint32_t>(row_bytes)) {}
};

// Operands of a step from the words (and top bits) of its four tokens.
template <int kBits, int kWidth>
__device__ inline void MakeValues(const uint32_t (&w)[4], const uint32_t (&t)[4], int shift,
                                  const ValueShare<kBits, kWidth>& share,
                                  uint32_t (&a)[ValueShare<kBits, kWidth>::kUnitTiles][4]) {
  using Share = ValueShare<kBits, kWidth>;
  constexpr int kHalves = 2 / Share::kParts;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {  // tokens
    const uint32_t w0 = w[2 * pair], w1 = w[2 * pair + 1], t0 = t[2 * pair], t1 = t[2 * pair + 1];
    if constexpr (kBits == 16) {
      a[0][2 * pair] = HalfWords(w0, w1, 0);
      a[0][2 * pair + 1] = HalfWords(w0, w1, 1);
    } else {
#pragma unroll
      for (int i = 0; i < kHalves; ++i) {
        const int half = kHalves == 2 ? i : share.part;
        uint32_t out[WordTiles(kBits) / 2][2];
        UnpackValues<kBits>(HalfWords(w0, w1, half), HalfWords(t0, t1, half), shift, out);
#pragma unroll
        for (int k = 0; k < WordTiles(kBits) / 2; ++k) {
          a[i * (WordTiles(kBits) / 2) + k][2 * pair] = out[k][0];
          a[i * (WordTiles(kBits) / 2) + k][2 * pair + 1] = out[k][1];
        }
      }
    }
  }
}

// sums += values weights, by the value group; columns beyond the page's are garbage.
template <int kBits, int kWidth, int kColumns>
__device__ inline void SumLatents(uint32_t stage, const OperandB& weights, int plane,
                                  const ValueShare<kBits, kWidth>& share, const ValuePlaces& places,
                                  int lane,
                                  float (&sums)[ValueShare<kBits, kWidth>::kTiles][kColumns / 2]) {
  using Share = ValueShare<kBits, kWidth>;
  constexpr int kSteps = kTileTokens / 16;
#pragma unroll
  for (int u = 0; u < Share::kUnits; ++u) {
    int shift = 0;
    uint32_t top_place = 0;
    if constexpr (kBits == 3) {
      const int byte = (share.first_set + 4 * u) * 32 + 4 * (lane / 4), half = plane / 2;
      shift = byte >= half ? 1 : 0;
      top_place = static_cast<uint32_t>(plane + 4 * u * 32 - shift * half);
    }
    uint32_t w[kSteps][4], t[kSteps][4] = {};
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t at = stage + places.word + (4 * k + i) * places.row_bytes;
        w[k][i] = Load4(at + u * 128);
        if constexpr (kBits == 3) t[k][i] = Load4(at + top_place);
      }
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      uint32_t a[Share::kUnitTiles][4];
      MakeValues<kBits, kWidth>(w[k], t[k], shift, share, a);
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < Share::kUnitTiles; ++i) {
        Wgmma(sums[u * Share::kUnitTiles + i], a[i], OperandB(weights, k * 32 * kColumns), true);
      }
      WgmmaCommit();
      WgmmaWait<1>();
    }
  }
  WgmmaWait<0>();
}
#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
