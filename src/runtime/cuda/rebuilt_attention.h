// Attention of prompts: keys and values are rebuilt densely, a piece of the context at a time, and
// met by all queries of the chunk.
#pragma once

#include "ops/cuda/attention.h"
#include "ops/cuda/linear.h"
#include "runtime/cuda/device_weights.h"
#include "tensor/cuda/buffer.h"

namespace palu::cuda {

// Latents of one sequence's recent tokens, row i that of token first + i (GatherRecent), which
// queries from `begin` on meet instead of what is stored; without tokens none.
struct RecentLatents {
  int64_t tokens = 0;  // that a query meets so, its own included
  int64_t first = 0, begin = 0;
  DeviceMatrix k, v;
};

class RebuiltAttention {
 public:
  static constexpr int64_t kPiece = 4096;  // tokens rebuilt at a time

  // q: [count, heads*d] float rows of the chunk, after RoPE. out: [count, heads*d]. The chunk's
  // keys are in the cache. `sequence` is the chunk's own, one row; its first position is given
  // because the host needs it.
  void Run(const AttentionView& view, const DeviceLayer& layer, const SequencesView& sequence,
           int64_t first_position, const PrefillChunk& chunk, const RecentLatents& recent,
           const DeviceMatrix& q, LinearRunner& linear, const DeviceMatrix& out,
           cudaStream_t stream);

 private:
  struct Piece;  // of the context
  // Keys or values of a piece into `out`, [count, n_kv*d] of the cache's type.
  void Rebuild(const Piece& piece, const DeviceProjection& projection, bool keys, char* out);
  // Adds attention to tokens [begin, end), in pieces, to what is there.
  void Add(Piece piece, const DeviceLayer& layer, int64_t begin, int64_t end,
           const PrefillChunk& chunk);

  DeviceBuffer<char> queries_, latents_, keys_, values_;
  DeviceBuffer<float> rebuilt_, acc_, max_, sum_;
  bool first_ = true;  // nothing is added yet
};

}  // namespace palu::cuda
