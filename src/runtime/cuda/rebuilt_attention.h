// Attention of prompts: keys and values are rebuilt densely, a piece of the context at a time, and
// met by all queries of the chunk.
#pragma once

#include "ops/cuda/attention.h"
#include "ops/cuda/linear.h"
#include "runtime/cuda/device_weights.h"
#include "tensor/cuda/buffer.h"

namespace palu::cuda {

class RebuiltAttention {
 public:
  static constexpr int64_t kPiece = 4096;  // tokens rebuilt at a time

  // q: [count, heads*d] float rows of the chunk, after RoPE. out: [count, heads*d]. The chunk's
  // keys are in the cache. `sequence` is the chunk's own, one row; its first position is given
  // because the host needs it.
  void Run(const AttentionView& view, const DeviceLayer& layer, const SequencesView& sequence,
           int64_t first_position, const PrefillChunk& chunk, const DeviceMatrix& q,
           LinearRunner& linear, const DeviceMatrix& out, cudaStream_t stream);

 private:
  // Keys or values of tokens [begin, begin + count) into `out`, [count, n_kv*d] of the cache's
  // type.
  void Rebuild(const AttentionView& view, const DeviceProjection& projection, bool keys,
               const SequencesView& sequence, int64_t first_position, int64_t begin, int64_t count,
               LinearRunner& linear, char* out, cudaStream_t stream);

  DeviceBuffer<char> queries_, latents_, keys_, values_;
  DeviceBuffer<float> rebuilt_, acc_, max_, sum_;
};

}  // namespace palu::cuda
