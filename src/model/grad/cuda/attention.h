// Causal attention over one whole window and its derivative on the device, in blocks of query rows
// (model/grad/attention.h). The scores of one block of all KV heads exist at a time.
#pragma once

#include "linalg/cuda/blas.h"
#include "model/config.h"
#include "tensor/cuda/buffer.h"

namespace palu::cuda {

class WindowAttention {
 public:
  WindowAttention(const ModelConfig& config, Blas& blas, cudaStream_t stream);

  // qkv: [n, (n_q + 2 n_kv) d], queries, keys and values side by side; out: [n, n_q*d].
  void Forward(MatrixView<const float> qkv, MatrixView<float> out);
  // dqkv, the gradient of qkv, from that of out. With `recent` also `near` [n, 2 n_kv d], the part
  // of the keys' and values' that comes from queries less than `recent` tokens after them.
  void Backward(MatrixView<const float> qkv, MatrixView<const float> dout, MatrixView<float> dqkv,
                int64_t recent, float* near);

 private:
  // The heads that share a pass: query head `member` of every KV head, `d` columns each.
  struct Pass {
    MatrixView<const float> q, k, v;  // of the first KV head; the others follow at a fixed step
  };
  Pass MakePass(MatrixView<const float> qkv, int64_t member) const;
  int64_t QueryBlock(int64_t n) const;
  // p_ [n_kv, count, keys] of query rows [begin, begin + count).
  void Probabilities(const Pass& pass, int64_t begin, int64_t count);

  int64_t heads_, kv_heads_, d_, members_;
  float scale_;
  Blas& blas_;
  cudaStream_t stream_;
  DeviceBuffer<float> p_, dp_;
};

}  // namespace palu::cuda
