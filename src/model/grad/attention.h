// Causal attention over one whole window and its derivative, in blocks of query rows. The scores of
// one block exist at a time (per thread), never [n, n]; nothing is kept between the two passes.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace palu::grad {

struct AttentionShape {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
};

template <class T>
class CausalAttention {
 public:
  CausalAttention(const AttentionShape& shape, ThreadPool& pool);

  // out = softmax(q k^T / sqrt(d), causal) v per head; query head h reads KV head h / (n_q/n_kv).
  // q, out: [n, n_q*d]; k, v: [n, n_kv*d].
  void Forward(MatrixView<const T> q, MatrixView<const T> k, MatrixView<const T> v,
               MatrixView<T> out);

  // What queries less than `recent` tokens after a key add to its gradients.
  struct Near {
    int64_t recent = 0;
    MatrixView<T> dk, dv;  // [n, n_kv*d]
  };

  // The gradients of q, k and v (same shapes) from that of out; with near.recent also their parts
  // from near queries.
  void Backward(MatrixView<const T> q, MatrixView<const T> k, MatrixView<const T> v,
                MatrixView<const T> dout, MatrixView<T> dq, MatrixView<T> dk, MatrixView<T> dv,
                const Near& near = {});

 private:
  struct Scratch {
    Matrix<T> probabilities;  // [block, keys]
    Matrix<T> gradient;       // [block, keys]
  };
  // One head's columns of everything that the backward pass of that head touches.
  struct Head {
    MatrixView<const T> q, k, v, dout;
    MatrixView<T> dq, dk, dv;
    Near near;
  };

  int64_t heads_per_kv() const { return shape_.num_heads / shape_.num_kv_heads; }
  template <class U>
  MatrixView<U> HeadOf(MatrixView<U> x, int64_t head) const {
    return x.ColRange(head * shape_.head_dim, shape_.head_dim);
  }
  MatrixView<T> Probabilities(MatrixView<const T> q, MatrixView<const T> k, int64_t begin,
                              int64_t count, Scratch& scratch) const;
  void BackwardHead(const Head& head, Scratch& scratch) const;
  // Of query rows [begin, begin + p.rows).
  void AddNear(const Head& head, int64_t begin, MatrixView<const T> p,
               MatrixView<const T> ds) const;
  void SumOverQueryHeads(MatrixView<const T> per_query_head, MatrixView<T> out) const;

  AttentionShape shape_;
  ThreadPool& pool_;
  T scale_;
  std::vector<Scratch> scratch_;  // per thread
  // [n, n_q*d], only with fewer KV heads than query heads
  Matrix<T> dk_heads_, dv_heads_, near_dk_heads_, near_dv_heads_;
};

}  // namespace palu::grad
