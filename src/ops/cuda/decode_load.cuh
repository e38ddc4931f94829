// Rows of a unit's pages on their way to shared memory: copies in the background, zeros for tokens
// beyond the sequence, whose memory may hold anything.
#pragma once

#include "ops/cuda/decode_plan.h"
#include "ops/cuda/mma.cuh"
#include "ops/paged_kv.h"

namespace palu::cuda {

// What a thread block works on, and the tile of tokens at hand.
struct DecodeTile {
  std::byte* const* blocks;  // of the sequence
  int32_t length;            // of the sequence
  int32_t unit;
  int32_t tokens;  // T
  int32_t first;   // first token of the tile
  // Tokens from `exact` on lie in the sequence's window of `recent` tokens, too, and are read
  // there.
  const std::byte* window;
  int32_t recent, exact;

  __device__ int32_t valid() const { return min(length - first, tokens); }
  __device__ const std::byte* block(int32_t i) const { return blocks[first / kBlockTokens + i]; }
  // Whether block i of the tile holds any token.
  __device__ bool Has(int32_t i) const {
    return first + i * static_cast<int32_t>(kBlockTokens) < length;
  }
};

// How a thread block walks the 64 rows of a page whose rows have some columns: lanes go along a row
// as far as it reaches and then over rows, so that a thread's column stays and only rows advance.
struct RowWalk {
  __device__ explicit RowWalk(int32_t columns) : across(32) {
    while (across / 2 >= columns) across /= 2;
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
    const int32_t rows = 32 / across;  // of a warp
    first_column = lane % across;
    first_row = static_cast<int32_t>(threadIdx.x) / 32 * rows + lane / across;
    row_step = static_cast<int32_t>(blockDim.x) / 32 * rows;
  }
  int32_t across;  // columns of a turn
  int32_t first_column, first_row, row_step;
};

// Starts copies of a tile of 16-bit elements: [T, TileStride].
__device__ inline void CopyElements(const ProjectionView& p, const DecodeTile& tile,
                                    int32_t unit_heads, std::byte* land) {
  const int32_t pages = UnitPages(p, unit_heads), stride = TileStride(p, unit_heads) * 2;
  const int32_t valid = tile.valid();
  for (int32_t i = 0; i < pages; ++i) {
    const PageView page = p.pages[tile.unit * pages + i];
    for (int32_t b = 0; b < tile.tokens / 64; ++b) {
      const bool has = tile.Has(b);
      const std::byte* from = (has ? tile.block(b) : tile.block(0)) + page.offset;
      const uint32_t to = SharedAddress(land) + b * 64 * stride + i * p.max_width * 2;
      const RowWalk walk(page.width / 8);
      for (int32_t column = walk.first_column; column < page.width / 8; column += walk.across) {
        const std::byte* source = from + (walk.first_row * page.width + column * 8) * 2;
        uint32_t target = to + walk.first_row * stride + column * 16;
        for (int32_t row = walk.first_row; row < 64; row += walk.row_step) {
          CopyAsync16(target, source, b * 64 + row < valid);
          source += walk.row_step * page.width * 2;
          target += walk.row_step * stride;
        }
      }
    }
  }
}

// Starts copies of whole packed pages, [pages of the unit, T/64] of the largest page's bytes.
__device__ inline void CopyPacked(const ProjectionView& p, const DecodeTile& tile,
                                  int32_t unit_heads, std::byte* land) {
  const int32_t pages = UnitPages(p, unit_heads), page_bytes = MaxPackedBytes(p);
  const int32_t blocks = tile.tokens / 64;
  for (int32_t i = 0; i < pages; ++i) {
    const PageView& page = p.pages[tile.unit * pages + i];
    const int32_t bytes = PackedBytes(p, page);
    for (int32_t b = 0; b < blocks && tile.Has(b); ++b) {
      const std::byte* from = tile.block(b) + page.offset;
      const uint32_t to = SharedAddress(land) + (i * blocks + b) * page_bytes;
      for (int32_t at = static_cast<int32_t>(threadIdx.x) * 16; at < bytes;
           at += static_cast<int32_t>(blockDim.x) * 16) {
        CopyAsync16(to + at, from + at, true);
      }
    }
  }
}

__device__ inline void CopyRows(const ProjectionView& p, const DecodeTile& tile, int32_t unit_heads,
                                std::byte* land) {
  if (p.bits == 16) {
    CopyElements(p, tile, unit_heads, land);
  } else {
    CopyPacked(p, tile, unit_heads, land);
  }
}

}  // namespace palu::cuda
