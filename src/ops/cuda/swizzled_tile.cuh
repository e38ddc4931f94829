// Tiles of 16-bit elements in shared memory, as ldmatrix reads them without bank conflicts, and 8x8
// matrices in registers, as it leaves them.
#pragma once

#include <cstdint>

namespace palu::cuda {

// A tile [rows, kDim]. The 16-byte chunks of a row are permuted by the row, so that eight rows'
// chunks of one column lie in different banks.
template <int kDim>
struct SwizzledTile {
  static constexpr int kChunks = kDim / 8;
  static constexpr int kRowBytes = kDim * 2;
  static_assert(kChunks % 8 == 0);

  uint32_t base;  // in shared memory, a multiple of 8 rows

  __device__ uint32_t Address(int row, int chunk) const {
    return base + static_cast<uint32_t>(row * kRowBytes + (chunk ^ (row & 7)) * 16);
  }
  // `rows` (a multiple of 8) further down and `chunks` (even) to the right of an address whose row
  // lies in the first rows and whose chunk is 0 or 1.
  static __device__ uint32_t Move(uint32_t address, int rows, int chunks) {
    return (address ^ static_cast<uint32_t>(chunks * 16)) + static_cast<uint32_t>(rows * kRowBytes);
  }
};

// An 8x8 matrix of 16-bit elements, transposed.
__device__ inline uint32_t Transposed(uint32_t m) {
  uint32_t transposed;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(transposed) : "r"(m));
  return transposed;
}

}  // namespace palu::cuda
