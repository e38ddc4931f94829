// Scores of few queries with keys that are kept as codes, a block of 64 tokens at a time.
//
// Rows of U in int8 meet the codes of all tokens of a block at once, tokens in vector lanes, so any
// number of rows costs its share only. That is what the frequency split needs (frequency_split.h):
// the slow rotary pairs of a head are then not rebuilt; n rows W per query, made for a run of T
// tokens and rounded to int8 as U is, take their place. Against rebuilding every pair from the same
// codes a score of query q with the key of latents h moves by at most
//   max_error sum_{slow f} |q_f| |k_f| + sum_j |phi_j| (max|W_j| / 254 sum_r |h_r|
//                                                       + max|x_j| / 65278 sum_{slow i} |k_i /
//                                                       u_i|)
// with x_j the coefficients of W_j = x_j U8: the first term from the waves, 1e-3 of a score at
// kSplitTolerance; the second from rounding W, the size of what rounding U to int8 does; the third
// from rounding the coefficients to 15 bits.
#pragma once

#include <span>
#include <vector>

#include "ops/frequency_split.h"
#include "ops/int8_up.h"

namespace palu {

// Keys of one block: codes, scales and zeros of its tokens with tokens in lanes.
class LaneTile {
 public:
  // The tile's first `tokens` rows, at most 64; its latents have one scale per token.
  void Load(const CodeTile& tile, int64_t tokens);

  const uint8_t* codes() const { return codes_.data(); }  // [width / 4, 64, 4]
  const float* zeros() const { return zeros_.data(); }    // [64]
  const float* scales() const { return scales_.data(); }  // [64]; zero beyond the tokens

 private:
  AlignedBuffer<uint8_t> codes_;
  AlignedBuffer<float> zeros_, scales_;
};

// Cosines and sines of a block's tokens, pair by pair: [pairs, 64] each.
struct LaneRotations {
  AlignedBuffer<float> cos, sin;

  // From rows of cosines and then sines, `half` each, of the tokens (PositionTable::Rows).
  void Load(std::span<const float* const> rows, int64_t half, int64_t pairs);
};

// What the slow pairs of one head are for some queries over one run of tokens.
struct LaneWaves {
  int64_t rows = 0;  // queries
  AlignedBuffer<int8_t> packed;
  std::vector<float> scales, sums;  // of each W [rows, terms]
};

// Scratch of the calls below.
struct LaneScratch {
  AlignedBuffer<int32_t> sums;
  AlignedBuffer<int8_t> planes;
  AlignedBuffer<float> coefficients, w;
  std::vector<int32_t> offsets;
  AlignedBuffer<uint8_t> lanes;
};

// The split as the kernels read it, shared by all heads of a model.
struct LaneSplit {
  // frequencies: of the pairs, radians per position.
  LaneSplit(FrequencySplit split, std::span<const double> frequencies);

  FrequencySplit split;
  Matrix<float> waves;   // [terms, block_tokens]
  Matrix<float> re, im;  // coefficients counted from a run's first token [terms, slow_pairs]
};

// What one more row costs, for SplitCost. In lanes rows come in fours, and the coefficients of W
// are two planes of int8; in float32 (latents that are not quantised) every product costs the same.
SplitCost LaneSplitCost(int64_t queries);
inline SplitCost WaveSplitCost(int64_t queries) { return {.queries = queries}; }

// One KV head's rows of U.
class LaneKeys {
 public:
  // Whether this machine has the kernels (AVX-512 VNNI).
  static bool Available();
  // up: of one run (run >= width) and an even number of pairs. split: null, or outlives this.
  LaneKeys(const Int8Up& up, const LaneSplit* split);

  const LaneSplit* split() const { return split_; }
  int64_t pairs() const { return head_dim_ / 2; }

  // queries [rows, d], after RoPE; anchor: cosines and sines of the run's first token's position.
  void MakeWaves(MatrixView<const float> queries, const float* anchor, LaneScratch& scratch,
                 LaneWaves& waves) const;

  // scores [rows, 64] of a tile, all pairs rebuilt; or, with waves, the exact pairs and the waves
  // from token `offset` of their run on.
  void Scores(const LaneTile& tile, const LaneRotations& rotations, MatrixView<const float> queries,
              const LaneWaves* waves, int64_t offset, LaneScratch& scratch,
              MatrixView<float> scores) const;

 private:
  int64_t head_dim_, quads_, slow_quads_ = 0;
  const LaneSplit* split_;
  AlignedBuffer<int8_t> rows_;        // pairs side by side: (f, f + d/2), (f + 1, f + 1 + d/2)
  AlignedBuffer<uint8_t> slow_;       // U8 + 128 of the slow rows [width / 64, slow_quads, 64, 4]
  std::vector<float> scales_, sums_;  // u_f and sum_r U8[f][r] [d]
};

}  // namespace palu
