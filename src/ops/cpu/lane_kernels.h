// Inner loops that have the 64 tokens of a block, or latents, in vector lanes: sums need no
// horizontal step, and any number of rows can meet them. One instance per instruction set; all give
// the same bits.
#pragma once

#include <cstdint>

#include "ops/paged_kv.h"

namespace palu::cpu {

inline constexpr int64_t kTileLanes = kBlockTokens;
inline constexpr int64_t kRowGroup = 4;  // int8 rows that one call of a kernel takes

// int8 rows in groups of four, as the kernels read them: [rows / 4, quads, 4, 4].
inline int64_t PackedRowBytes(int64_t rows, int64_t quads) {
  return (rows + kRowGroup - 1) / kRowGroup * kRowGroup * quads * 4;
}
// Where the four entries of a row's first quad lie; each next quad follows 16 bytes later.
inline int64_t PackedRowOffset(int64_t row, int64_t quads) {
  return (row / kRowGroup * quads * kRowGroup + row % kRowGroup) * 4;
}

// Rows of packed codes, 64 tokens, each `bytes` after the one before.
struct LaneCodes {
  const uint8_t* packed;
  int64_t bytes, width;
  int bits;
};

// Whether quads of a row's codes fill whole words of each plane; else they are unpacked first.
inline bool HasWholeQuads(int bits, int64_t width) {
  return width % (bits == 8 ? 4 : bits == 4 ? 8 : bits == 2 ? 16 : 32) == 0;
}

// Four int8 rows that meet the codes of a tile: what they add to four numbers of every token.
struct LaneRows {
  const uint8_t* codes;  // [quads, 64, 4]
  int64_t quads;
  const int8_t* rows;      // [quads, 4, 4]
  const float* up_scales;  // [4]
  const float* up_sums;    // [4]
  const float* zeros;      // [64]
  const float* scales;     // [64]; null: 1
  const float* start;      // [4]: what the sums start from; null: from what is in `out`
  float* out;              // [4, 64]
};

// Two rotary pairs of the keys of a tile, from whole numbers to scores.
struct LanePairs {
  const float* keys;        // [4, 64]: both members of the first pair, then of the second
  const float *cos, *sin;   // of these pairs at the tokens' positions [2, 64]
  const float* queries[2];  // both members of the first query's first pair, the second pair after
                            // it; the next query `query_stride` further on
  int64_t query_stride, rows;
  float* scores;  // [rows, score_stride]
  int64_t score_stride;
  bool add;  // to what is there
};

// Products with up to four rows W, times their waves: row i belongs to query i / terms.
struct LaneWaveRows {
  const float* keys;  // [4, 64]
  int64_t first, count, terms;
  const float* waves;  // of the first token [terms, wave_stride]
  int64_t wave_stride;
  float* scores;  // of query 0, + wave product
  int64_t score_stride;
  const float* scales;  // [64], by which a query's scores are multiplied after its last; or null
};

// Rows rounded to two planes of int8: x ~= scale (256 high + low), |256 high + low| <= 32639.
inline constexpr float kMostInPlanes = 127 * 256 + 127;
struct PlaneSums {
  float scale = 0;
  float high = 0, low = 0;  // sums of the entries, weighted: exact
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

// Weights of values of two queries, and the scales and zeros of the tokens that they meet.
struct LaneWeights {
  const float* p[2];            // [tokens]; the second may be null: zeros
  const float *scales, *zeros;  // [64]
  int64_t tokens;
  int8_t* planes;  // [16, 4, 4]: a group of four rows, high and low of either query
};

// Two queries' weights times values: acc_k += scale_k (256 (H - high_k) + L - low_k) with H and L
// the exact sums of planes times codes.
struct LaneValues {
  const uint8_t* lanes;  // quads of tokens [16 rows `stride` bytes apart, count, 4]
  int64_t stride;
  const int8_t* planes;
  const PlaneSums* sums;  // [2]
  int64_t count;          // latents, at most 64; bytes of 64 are read
  float* acc[2];          // [count]; the second may be null
};

struct LaneKernels {
  // lanes [dwords, 64] = the first 4-byte elements of 64 rows, transposed.
  void (*transpose)(const void* const* rows, int64_t dwords, void* lanes);
  // lanes [width / 4, 64, 4] = codes, tokens in lanes; of rows with whole quads.
  void (*load_codes)(const LaneCodes& codes, uint8_t* lanes);
  // lanes [16, stride / 4, 4] = codes, latents in lanes, four tokens side by side; any width.
  void (*load_values)(const LaneCodes& codes, int64_t stride, uint8_t* lanes);
  // sums [4, 64] = four rows [quads, 4, 4] times lanes [quads, 64, 4]: exact.
  void (*products)(const uint8_t* lanes, const int8_t* rows, int64_t quads, int32_t* sums);
  // out = start + sum over the calls of scales_t up_scale_r (<codes_t, row_r> - zeros_t up_sum_r).
  void (*add_rows)(const LaneRows& rows);
  void (*add_pairs)(const LanePairs& pairs);
  void (*add_waves)(const LaneWaveRows& rows);
  // scores [64] *= scales.
  void (*scale_lanes)(const float* scales, float* scores);
  void (*coefficients)(const LaneCoefficients& c);
  // Rounds x [n], n a multiple of 4, into two rows of groups: entries of quad i at high + 16 i.
  PlaneSums (*split_planes)(const float* x, const int32_t* weights, int64_t n, int8_t* high,
                            int8_t* low);
  // Rounds x [n] to one row of int8: x ~= scale row. Returns the scale; *sum: of the entries.
  float (*round_row)(const float* x, int64_t n, int8_t* row, int32_t* sum);
  // out [64] = scale (256 (high - planes.high) + low - planes.low): products with codes of which
  // the weights were too much.
  void (*join_planes)(const int32_t* high, const int32_t* low, const PlaneSums& planes, float* out);
  // Rounds p scales to planes; sums are weighted with the zeros.
  void (*split_weights)(const LaneWeights& weights, PlaneSums* sums);
  void (*add_values)(const LaneValues& values);
};

// This machine's: AVX-512 VNNI; null where it has none.
const LaneKernels* BestLaneKernels();
const LaneKernels& PortableLaneKernels();
const LaneKernels& Avx512LaneKernels();

}  // namespace palu::cpu
