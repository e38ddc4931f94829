// Inner loops that have the 64 tokens of a block, or 64 latents, in vector lanes: sums need no
// horizontal step, and any number of rows can meet them. One instance per instruction set.
#pragma once

#include <cstdint>

#include "ops/paged_kv.h"

namespace palu::cpu {

inline constexpr int64_t kTileLanes = kBlockTokens;
inline constexpr int64_t kRowGroup = 4;  // int8 rows that one call of `products` takes

// int8 rows in groups of four, as `products` reads them: [rows / 4, quads, 4, 4].
inline int64_t PackedRowBytes(int64_t rows, int64_t quads) {
  return (rows + kRowGroup - 1) / kRowGroup * kRowGroup * quads * 4;
}
// Where the four entries of a row's first quad lie; each next quad follows 16 bytes later.
inline int64_t PackedRowOffset(int64_t row, int64_t quads) {
  return (row / kRowGroup * quads * kRowGroup + row % kRowGroup) * 4;
}

// One rotary pair of the keys of a tile, from integer sums to scores.
struct LanePair {
  const int32_t* sums[2];  // <codes_t, U8_f> of both members [lanes]
  float up_scales[2], up_sums[2];
  const float* zeros;       // [lanes]
  const float *cos, *sin;   // of this pair at the tokens' positions [lanes]
  const float* queries[2];  // both members of the first query, the next `query_stride` further on
  int64_t query_stride, rows;
  float* scores;  // [rows, score_stride] +=
  int64_t score_stride;
};

// One row W of a query: scores += wave_t scale (sum_t - zero_t row_sum).
struct LaneWave {
  const int32_t* sums;
  float scale, row_sum;
  const float *zeros, *wave;
  float* scores;
};

// Rows rounded to two planes of int8: x ~= scale (256 high + low), |256 high + low| <= 32639.
inline constexpr float kMostInPlanes = 127 * 256 + 127;
struct PlaneSums {
  float scale = 0;
  int32_t high = 0, low = 0;  // sums of the entries, weighted
};

// Coefficients of the slow pairs in W_j for one query, and what makes them.
struct LaneCoefficients {
  const float *query, *query_imaginary;  // both members of the slow pairs [pairs]
  const float *cos, *sin;                // at the block's first token [pairs]
  const float *re, *im;                  // c_jf of this wave, counted from the first token [pairs]
  const float *up_scales, *up_scales_imaginary;  // [pairs]
  int64_t pairs;
  float* out;  // [2 pairs]
};

struct LaneKernels {
  // lanes [dwords, 64] = the first 4-byte elements of 64 rows, transposed.
  void (*transpose)(const void* const* rows, int64_t dwords, void* lanes);
  // lanes [16 quads, 64, 4] = 64 rows of 64 bytes: bytes of four successive rows side by side.
  void (*transpose_quads)(const uint8_t* const* rows, uint8_t* lanes);
  // sums [4, 64] = four rows [quads, 4, 4] times lanes [quads, 64, 4]: exact.
  void (*products)(const uint8_t* lanes, const int8_t* rows, int64_t quads, int32_t* sums);
  void (*add_pair)(const LanePair& pair);
  void (*add_wave)(const LaneWave& wave);
  void (*coefficients)(const LaneCoefficients& c);
  // Rounds x [n], n a multiple of 4, into two rows of a group: entries of quad i at high + 16 i.
  PlaneSums (*split_planes)(const float* x, const int32_t* weights, int64_t n, int8_t* high,
                            int8_t* low);
  // Rounds x [n] to one row of int8: x ~= scale row. Returns the scale; *sum: of the entries.
  float (*round_row)(const float* x, int64_t n, int8_t* row, int32_t* sum);
  // out [64] (+)= scale (256 (high - planes.high) + low - planes.low): products with codes of which
  // the weights were too much.
  void (*join_planes)(const int32_t* high, const int32_t* low, const PlaneSums& planes, bool add,
                      float* out);
};

// This machine's: AVX-512 VNNI; null where it has none.
const LaneKernels* BestLaneKernels();
const LaneKernels& PortableLaneKernels();
const LaneKernels& Avx512LaneKernels();

}  // namespace palu::cpu
