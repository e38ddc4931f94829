// Codes of latents as kernels unpack them: the layout of a token's row (docs/cache-layout.md) read
// 16 bytes at a time, and the order in which latents then meet a row of products.
#pragma once

#include <cstdint>
#include <vector>

namespace palu {

// Rows W of up to 4 bits are bytes, else fp16.
constexpr bool IntegerRows(int bits) { return bits <= 4; }
constexpr int RowElementBytes(int bits) { return IntegerRows(bits) ? 1 : 2; }
// Planes of equal shifts in which codes of a token lie; 3 bits have their high bits apart.
constexpr int CodePlanes(int bits) { return bits >= 8 ? 1 : bits == 4 ? 2 : 4; }
// Bytes of a token's row, and of its first plane.
constexpr int RowBytes(int bits, int width) { return width * bits / 8; }
constexpr int PlaneBytes(int bits, int width) {
  return bits == 16 ? width * 2 : width / CodePlanes(bits);
}
// A lane reads 16 bytes of a plane at a time, four lanes of a row 64: a chunk. It makes this many
// steps of 32 bytes of a product's depth.
inline constexpr int kChunkBytes = 64;
constexpr int ChunkSteps(int bits) {
  return bits == 16 ? 2 : 2 * CodePlanes(bits) * RowElementBytes(bits);
}
constexpr int Chunks(int bits, int width) {
  return (PlaneBytes(bits, width) + kChunkBytes - 1) / kChunkBytes;
}
// Elements of a row in a step.
constexpr int StepElements(int bits) { return 32 / RowElementBytes(bits); }

// Where a latent stands in a row W, in elements: the order in which unpacking makes operands. Byte
// 16 c + 4 i + b of a chunk belongs to lane c of a row; a step has k = 4 c .. 4 c + 3 (bytes; 2 c,
// 2 c + 1 for fp16) in its first half and the same in its second.
constexpr int RowSlot(int bits, int width, int latent) {
  const int elements = StepElements(bits);
  if (bits == 16) {
    const int chunk = latent / 32, c = latent % 32 / 8, e = latent % 8;
    return (2 * chunk + e / 4) * elements + e / 2 % 2 * 8 + 2 * c + e % 2;
  }
  const int plane_bytes = PlaneBytes(bits, width), plane = latent / plane_bytes;
  const int byte = latent % plane_bytes, chunk = byte / kChunkBytes;
  const int c = byte % kChunkBytes / 16, i = byte % 16 / 4, b = byte % 4;
  const int step = chunk * ChunkSteps(bits) + i * (ChunkSteps(bits) / 4);
  if (bits == 8) return step * elements + b % 2 * 8 + 2 * c + b / 2;
  return (step + plane / 2) * elements + plane % 2 * 16 + 4 * c + b;
}

// The latents of a row in the order of their slots; for widths whose codes fill whole bytes of
// their planes.
std::vector<int64_t> SlotOrder(int bits, int64_t width);

// ---- The rotary basis (compress/rotary_basis.h).

// Fast rows of a group: those of U that belong to the first `pairs` rotary pairs of a head.
struct RotaryRows {
  int64_t head_dim = 0, pairs = 0;
  int bits = 16;  // of a stored latent

  int64_t count() const { return 2 * pairs; }
  // The i-th fast row of a group's head.
  int64_t Row(int64_t head, int64_t i) const {
    return head * head_dim + i % pairs + i / pairs * head_dim / 2;
  }
};

inline constexpr int64_t kRotaryHeads = 2;  // heads that have a bound in common

// How many latents, counted in slot order, the fast rows of each of a group's heads may need: ends
// of steps of products, [heads].
std::vector<int64_t> RotaryBounds(const RotaryRows& rows, int64_t heads, int64_t rank);

// The latents, as stored, that lie beyond a bound.
std::vector<int64_t> LatentsBeyond(int bits, int64_t rank, int64_t bound);

}  // namespace palu
