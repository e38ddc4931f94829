// Causal attention over a paged cache of latents or plain keys and values (method.md section 2).
//
// Keys: a latent page gives k = U h (+ bias), optionally RMSNorm per head, then RoPE at the token's
// own position; a plain page holds k after RoPE. Values: probabilities meet the latents first and
// U_v comes after the sum (decode) or full values are rebuilt per tile (prefill); when U_v is fused
// into the output projection the result stays in latent space. Quantised latents are read as codes;
// decode and prefill rebuild the same keys from them.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "ops/int8_up.h"
#include "ops/lane_keys.h"
#include "ops/paged_kv.h"
#include "ops/position_table.h"
#include "ops/softmax_state.h"
#include "tensor/exec.h"
#include "tensor/tensor.h"

namespace palu {

// Keys or values of one layer: pages, and how a head is rebuilt from a latent.
struct AttentionProjection {
  CachedPages pages;
  std::vector<TensorView> up;       // per page [heads_per_page*d, width]; empty when plain
  TensorView bias;                  // [n_kv*d], part of a rebuilt head; plain pages include it
  std::span<const Int8Up> int8_up;  // per KV head: U in int8, for keys from codes; else empty
  std::span<const LaneKeys>
      lane_keys;  // for decoding from codes, where there is a kernel; or empty
  // Of keys from latents that are not quantised, when decoding: slow rotary pairs are not rebuilt
  // but summed as waves (ops/frequency_split.h), in float32; null: every key is rebuilt whole.
  const LaneSplit* split = nullptr;
  TensorView norm;  // [d], keys of Qwen3: RMSNorm between U h + bias and RoPE
  float norm_eps = 0;
};

struct AttentionLayer {
  int64_t heads = 0;  // query heads
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1;                           // 1/sqrt(d)
  const PositionTable* positions = nullptr;  // RoPE of rebuilt keys; covers every token
  AttentionProjection k, v;
  bool fused_values = false;  // output p.h_v per head: [rank of the head's page]

  int64_t heads_per_kv() const { return heads / kv_heads; }
  // Width of one query head's output, and of all of them.
  int64_t output_width(int64_t head) const;
  int64_t output_width() const;
};

// Consecutive tokens of one sequence in this step. Their keys and values are in the cache already.
struct QueryChunk {
  BlockTable table;
  int64_t start = 0;  // tokens of the sequence before the chunk
  int64_t count = 0;
  int64_t row = 0;             // first row in the step's matrices
  int64_t first_position = 0;  // position of the sequence's token 0
  // With RecentRows: the first token that has a row there, and its row; the rows of the tokens up
  // to the chunk's end follow.
  int64_t recent_begin = 0, recent_row = 0;
};

// The chunk's own rows before they were rounded into the cache: [tokens, width of all pages].
// Null: attend to what is stored, so that a later decode sees the same numbers.
struct FreshRows {
  MatrixView<const float> k, v;
  explicit operator bool() const { return k.data != nullptr; }
};

// Latents of recent tokens before they were quantised: a query meets those of the last `tokens`,
// its own included, instead of the stored ones. [rows, width of all pages], rows as QueryChunk
// says.
struct RecentRows {
  int64_t tokens = 0;
  MatrixView<const float> k, v;

  // The first token that the query at `token` meets so; token + 1 where there is none.
  int64_t Begin(const QueryChunk& chunk, int64_t token) const {
    return std::max(chunk.recent_begin, token + 1 - tokens);
  }
};

// Scratch that is kept between calls; one per caller.
class AttentionWorkspace {
 public:
  struct PerWorker {
    Matrix<float> latents, keys, values, queries, scores, weighted, accumulator, up_keys, up_values;
    Matrix<float> recent_keys, recent_values, recent_scores;
    std::vector<Matrix<float>> unit_up_keys;  // per KV head of a decode unit
    CodeTile codes;
    std::vector<LaneTile> lane_tiles;  // of a page, one per tier
    LaneRotations lane_rotations;
    LaneScratch lanes;
    std::vector<LaneWaves> lane_waves;  // per KV head of a decode unit
    std::vector<Matrix<float>> waves;   // the same in float32
    Matrix<float> coefficients, wave_scores;
    std::vector<const float*> rotations;  // of a tile's tokens
    std::vector<SoftmaxState> states;
  };
  std::vector<PerWorker> workers;
  // Partial results of split decode: [splits * rows, width] and a state per row.
  AlignedBuffer<float> partials;
  std::vector<SoftmaxState> partial_states;
};

// q: [tokens, heads*d] after RoPE. out: [tokens, output_width()]. A chunk's result does not depend
// on the other chunks nor on the number of threads.
void PagedAttention(const Exec& exec, const AttentionLayer& layer,
                    std::span<const QueryChunk> chunks, MatrixView<const float> q, FreshRows fresh,
                    const RecentRows& recent, AttentionWorkspace& workspace, MatrixView<float> out);

}  // namespace palu
