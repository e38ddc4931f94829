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
//
// Tiers are rounded by themselves, and only here: prefill rebuilds their keys with U in float32.
// Entries of U and of W move by at most the largest of their row in their tier over 254, which the
// rounding of codes of up to 4 bits hides, and over 65278 in tiers of 8 bits. W is made in float32.
#pragma once

#include <span>
#include <vector>

#include "ops/frequency_split.h"
#include "ops/int8_up.h"
#include "ops/paged_kv.h"
#include "ops/position_table.h"

namespace palu {

// Codes of one block of tokens with tokens in lanes: a page's whole latent, or a tier of it.
class LaneTile {
 public:
  // The first `tokens` rows of a block, at most 64, one scale per token; memory of all 64 rows is
  // read.
  void Load(const LatentQuantization& quantization, const PackedRows& rows, int64_t tokens);

  const uint8_t* codes() const { return codes_.data(); }  // [width / 4, 64, 4]
  const float* zeros() const { return zeros_.data(); }    // [64]
  const float* scales() const { return scales_.data(); }  // [64]; zero beyond the tokens
  int64_t quads() const { return quads_; }

 private:
  AlignedBuffer<uint8_t> codes_;
  AlignedBuffer<float> zeros_, scales_;
  AlignedBuffer<uint8_t> unpacked_;
  int64_t quads_ = 0;
};

// Cosines and sines of a block's tokens, pair by pair: [pairs, 64] each.
struct LaneRotations {
  const float *cos = nullptr, *sin = nullptr;

  // Those of positions [first, first + 64) where the table has them so, else transposed from the
  // rows of the first `tokens` positions.
  void Load(const PositionTable& positions, int64_t first, int64_t tokens, int64_t pairs);

 private:
  AlignedBuffer<float> own_;
};

// What the slow pairs of one head are for some queries over one run of tokens: rows W in parts, as
// LaneKeys has them, and what a bias of the keys adds to W h.
struct LaneWaves {
  struct Part {
    AlignedBuffer<int8_t> packed;
    std::vector<float> scales, sums;  // of each W [rows, terms]
  };
  std::vector<Part> parts;
  std::vector<float> bias;  // [rows, terms]
};

// Scratch of the calls below.
struct LaneScratch {
  AlignedBuffer<int32_t> sums;
  AlignedBuffer<int8_t> planes;
  AlignedBuffer<float> keys, scales, zeros;
  std::vector<int32_t> offsets;
  AlignedBuffer<uint8_t> lanes, unpacked;
  Matrix<float> coefficients, rows;
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
// are two planes of int8, or float32 with tiers, of which a vector holds a quarter of the products;
// in float32 throughout (latents that are not quantised) every product costs the same.
SplitCost LaneSplitCost(int64_t queries);
SplitCost TierSplitCost(int64_t queries);
inline SplitCost WaveSplitCost(int64_t queries) { return {.queries = queries}; }

// One KV head's rows of U, in parts whose products with codes add up: one per tier, or two planes
// of int8 for a tier of 8 bits, which together keep 15 bits of a row's largest entry.
class LaneKeys {
 public:
  // Whether this machine has the kernels (AVX-512 VNNI).
  static bool Available();
  // up: of one run (run >= width) and an even number of pairs. bias: [d] of the keys, or empty.
  // split: null, or outlives this.
  LaneKeys(const Int8Up& up, std::span<const float> bias, const LaneSplit* split);
  // up: [d, width] of a page in tiers.
  LaneKeys(const TensorView& up, std::span<const PageTier> tiers, std::span<const float> bias,
           const LaneSplit* split);

  const LaneSplit* split() const { return split_; }
  SplitCost cost(int64_t queries) const {
    return tiered_ ? TierSplitCost(queries) : LaneSplitCost(queries);
  }
  int64_t pairs() const { return head_dim_ / 2; }

  // queries [rows, d], after RoPE; anchor: cosines and sines of the run's first token's position.
  void MakeWaves(MatrixView<const float> queries, const float* anchor, LaneScratch& scratch,
                 LaneWaves& waves) const;

  // scores [rows, 64] of the tiles of a block, one per tier, all pairs rebuilt; or, with waves, the
  // exact pairs and the waves from token `offset` of their run on.
  void Scores(std::span<const LaneTile> tiles, const LaneRotations& rotations,
              MatrixView<const float> queries, const LaneWaves* waves, int64_t offset,
              LaneScratch& scratch, MatrixView<float> scores) const;

 private:
  struct Part {
    struct Span {
      int64_t begin, count;
    };
    Part(int64_t tile, int64_t quads, int64_t count);
    void FindSpans();

    int64_t tile, quads;
    bool paired = false;                // the low plane of the part before
    std::vector<Span> spans;            // the quads where any of four rows is not zero
    AlignedBuffer<int8_t> rows;         // pairs side by side: (f, f + d/2), (f + 1, f + 1 + d/2)
    AlignedBuffer<float> scales, sums;  // u and sum_r U8 of these rows [d]
  };

  LaneKeys(int64_t head_dim, std::span<const float> bias, const LaneSplit* split);

  // Whether scales are left to the sum over all pairs: nothing else is in it.
  bool ScalesLast() const { return !tiered_ && bias_.empty(); }
  int64_t SlowRow(int64_t i) const;  // of the slow rows, first members first
  void Coefficients(const float* query, const float* anchor, int64_t term, const float* scales,
                    float* out) const;
  // scratch.rows [rows * terms, >= width]: W of all queries, from U in int8 and from U in float32.
  void MakeRows(MatrixView<const float> queries, const float* anchor, LaneScratch& scratch) const;
  void MakeFloatRows(MatrixView<const float> queries, const float* anchor,
                     LaneScratch& scratch) const;
  void MakeBias(MatrixView<const float> queries, const float* anchor, LaneScratch& scratch,
                LaneWaves& waves) const;
  // One row of W, rounded to a part's int8 or to the two planes from part `p` on.
  void RoundWave(const float* w, int64_t row, size_t p, LaneScratch& scratch,
                 LaneWaves& waves) const;

  int64_t head_dim_, slow_quads_ = 0;
  bool tiered_ = false;
  const LaneSplit* split_;
  std::vector<Part> parts_;
  std::vector<float> bias_, zero_bias_;  // as rows lie [d]; bias_ is empty when there is none
  std::vector<float> slow_bias_;         // of the slow rows
  std::vector<float> ones_;              // scales of coefficients that meet no int8 rows [d]
  // The slow rows, for W: U8 + 128 [width / 64, slow_quads, 64, 4] and u of one part, or with tiers
  // as stored [2 slow, width].
  AlignedBuffer<uint8_t> slow_;
  std::vector<float> slow_scales_;
  OwnedTensor up_;
};

}  // namespace palu
