// Codes of values as operands of their product with the weights.
#pragma once

#include "ops/cuda/mma.cuh"
#include "ops/cuda/split_keys.cuh"

namespace palu::cuda {

// Latents that a word of the first plane gives a lane, in tiles of 16 for the product.
__host__ __device__ constexpr int WordTiles(int bits) {
  return bits == 16 ? 1 : bits == 8 ? 2 : bits == 4 ? 4 : 8;
}

// How the warps of a group share the columns of a page of values of at most kWidth latents: sets of
// 32 bytes of a row's first plane, which are `kUnits` for a warp; where there are fewer sets than
// warps also the tokens, in kParts.
template <int kBits, int kWidth>
struct ValueShare {
  static constexpr int kSets = PlaneBytes(kBits, kWidth) / 32;
  static constexpr int kParts = kSets <= 2 ? 2 : 1;
  static constexpr int kUnits = (kSets + 3) / 4;
  static constexpr int kTiles = kUnits * WordTiles(kBits);  // of a warp's sums
  static constexpr int kSteps = 4 / kParts;                 // of 16 tokens
  int part, first_set;

  __device__ explicit ValueShare(int warp)
      : part(kParts == 1 ? 0 : warp / 2), first_set(kParts == 1 ? warp : warp % 2) {}
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Codes of two tokens as fp16 numbers q 2^-24 times the power of two of their plane: tile t has one
// latent in the operand's first eight rows and one in the last.
template <int kBits>
__device__ inline void UnpackValues(uint32_t x, uint32_t top, int shift, int half,
                                    uint32_t (&out)[WordTiles(kBits)][2]) {
  // Of the word's four bytes this makes two: `half` says which.
  if constexpr (kBits == 16) {
    out[0][half] = x;
  } else if constexpr (kBits == 8) {
    out[half][0] = x & 0x00FF00FFu;
    out[half][1] = (x >> 8) & 0x00FF00FFu;
  } else if constexpr (kBits == 4) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const uint32_t y = x >> (8 * b);
      out[2 * half + b][0] = y & 0x000F000Fu;
      out[2 * half + b][1] = y & 0x00F000F0u;
    }
  } else {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const uint32_t y = x >> (8 * b), z = (top >> (8 * b)) >> shift;
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        uint32_t code = y & (0x00030003u << (2 * p));
        if constexpr (kBits == 3) code |= (z & (0x00010001u << (2 * p))) << 2;
        out[4 * half + 2 * b + p / 2][p % 2] = code;
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

// Shared addresses, from the start of a stage and of a slot's weights, of what a lane reads of the
// first 16 tokens of its part: of tokens 16 c, 16 c + 1, 16 c + 2 and 16 c + 3 its first set's word
// and the weights. The next 16 tokens are those behind them, so that lanes meet all banks.
struct ValuePlaces {
  uint32_t word, row_bytes, weight;

  __device__ ValuePlaces(int row_bytes, int part, int steps, int first_set, int lane)
      : row_bytes(static_cast<uint32_t>(row_bytes)) {
    const int token = lane % 4 * kGroupRows + part * steps * 4;
    word = static_cast<uint32_t>(StagedRow(row_bytes, token) + first_set * 32 + lane / 4 * 4);
    weight = static_cast<uint32_t>(token * 2);
  }
};

// sums += values weights over this warp's part of the tokens; columns beyond the page's are
// garbage. weights: shared address of the lane's first two of slot lane / 4; those of the next
// eight slots are kSlotBytes behind.
template <int kBits, int kWidth, int kColumns, int kSlotBytes>
__device__ inline void SumLatents(uint32_t stage, uint32_t weights, int plane,
                                  const ValueShare<kBits, kWidth>& share, const ValuePlaces& places,
                                  int lane,
                                  float (&sums)[kColumns][ValueShare<kBits, kWidth>::kTiles][4]) {
  using Share = ValueShare<kBits, kWidth>;
  constexpr int kTiles = WordTiles(kBits);
  const int g = lane / 4;
#pragma unroll
  for (int u = 0; u < Share::kUnits; ++u) {
    int shift = 0;
    uint32_t top_place = 0;
    if constexpr (kBits == 3) {
      const int byte = (share.first_set + 4 * u) * 32 + 4 * g, half = plane / 2;
      shift = byte >= half ? 1 : 0;
      top_place = static_cast<uint32_t>(plane + 4 * u * 32 - shift * half);
    }
    uint32_t w[Share::kSteps][4], t[Share::kSteps][4] = {};
    uint32_t b[Share::kSteps][kColumns][2];
#pragma unroll
    for (int k = 0; k < Share::kSteps; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t at = stage + places.word + (4 * k + i) * places.row_bytes;
        w[k][i] = Load4(at + u * 128);
        if constexpr (kBits == 3) t[k][i] = Load4(at + top_place);
      }
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const uint2 pair = Load8(weights + n * kSlotBytes + k * 8);
        b[k][n][0] = pair.x;
        b[k][n][1] = pair.y;
      }
    }
#pragma unroll
    for (int k = 0; k < Share::kSteps; ++k) {
      uint32_t low[kTiles][2], high[kTiles][2];  // of the first eight tokens and of the others
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t select = half == 0 ? 0x5410 : 0x7632;
        UnpackValues<kBits>(__byte_perm(w[k][0], w[k][1], select),
                            __byte_perm(t[k][0], t[k][1], select), shift, half, low);
        UnpackValues<kBits>(__byte_perm(w[k][2], w[k][3], select),
                            __byte_perm(t[k][2], t[k][3], select), shift, half, high);
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const uint32_t a[4] = {low[i][0], low[i][1], high[i][0], high[i][1]};
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
          Mma<__half>(sums[n][u * kTiles + i], a, b[k][n][0], b[k][n][1]);
        }
      }
    }
  }
}
#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
