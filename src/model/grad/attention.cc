#include "model/grad/attention.h"

#include <algorithm>
#include <cmath>

#include "linalg/gemm.h"
#include "model/grad/parallel.h"
#include "model/grad/row_math.h"

namespace palu::grad {
namespace {

constexpr int64_t kQueryBlock = 256;  // rows of scores at a time

int64_t NumBlocks(int64_t n) { return (n + kQueryBlock - 1) / kQueryBlock; }

}  // namespace

template <class T>
CausalAttention<T>::CausalAttention(const AttentionShape& shape, ThreadPool& pool)
    : shape_(shape),
      pool_(pool),
      scale_(static_cast<T>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      scratch_(static_cast<size_t>(pool.size())) {}

// Query rows [begin, begin + count) against keys [0, begin + count), zero above the diagonal.
template <class T>
MatrixView<T> CausalAttention<T>::Probabilities(MatrixView<const T> q, MatrixView<const T> k,
                                                int64_t begin, int64_t count,
                                                Scratch& scratch) const {
  const int64_t keys = begin + count;
  scratch.probabilities.Resize(count, keys);
  const MatrixView<T> p = scratch.probabilities;
  Gemm(Trans::kNo, Trans::kYes, scale_, q.RowRange(begin, count), k.RowRange(0, keys), T(0), p);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t visible = begin + i + 1;
    T* row = p.Row(i);
    const T sum = ExpShifted(row, visible, Max(row, visible));
    Scale(row, visible, T(1) / sum);
    std::fill(row + visible, row + keys, T(0));
  }
  return p;
}

template <class T>
void CausalAttention<T>::Forward(MatrixView<const T> q, MatrixView<const T> k,
                                 MatrixView<const T> v, MatrixView<T> out) {
  const int64_t blocks = NumBlocks(q.rows);
  pool_.ParallelFor(blocks * shape_.num_heads, [&](int64_t index, int worker) {
    const int64_t head = index % shape_.num_heads;
    const int64_t block = blocks - 1 - index / shape_.num_heads;  // the longest first
    const int64_t begin = block * kQueryBlock;
    const int64_t count = std::min(kQueryBlock, q.rows - begin);
    const int64_t kv_head = head / heads_per_kv();
    const MatrixView<T> p =
        Probabilities(HeadOf(q, head), HeadOf(k, kv_head), begin, count, scratch_[worker]);
    Gemm(Trans::kNo, Trans::kNo, T(1), p, HeadOf(v, kv_head).RowRange(0, begin + count), T(0),
         HeadOf(out, head).RowRange(begin, count));
  });
}

// With P = softmax(S): dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = dS K, dK = dS^T
// Q. The last block sees every key, so it comes first and overwrites dK and dV; the others add.
template <class T>
void CausalAttention<T>::BackwardHead(const Head& head, Scratch& scratch) const {
  const int64_t n = head.q.rows;
  for (int64_t block = NumBlocks(n) - 1; block >= 0; --block) {
    const int64_t begin = block * kQueryBlock;
    const int64_t count = std::min(kQueryBlock, n - begin);
    const int64_t keys = begin + count;
    const T beta = keys == n ? T(0) : T(1);
    const MatrixView<T> p = Probabilities(head.q, head.k, begin, count, scratch);
    const MatrixView<const T> dout = head.dout.RowRange(begin, count);
    Gemm(Trans::kYes, Trans::kNo, T(1), p, dout, beta, head.dv.RowRange(0, keys));

    scratch.gradient.Resize(count, keys);
    const MatrixView<T> ds = scratch.gradient;
    Gemm(Trans::kNo, Trans::kYes, T(1), dout, head.v.RowRange(0, keys), T(0), ds);
    for (int64_t i = 0; i < count; ++i) {
      const T* prob = p.Row(i);
      T* row = ds.Row(i);
      const T mean = Dot<T>(prob, row, keys);
      for (int64_t j = 0; j < keys; ++j) row[j] = prob[j] * (row[j] - mean);
    }
    Gemm(Trans::kNo, Trans::kNo, scale_, ds, head.k.RowRange(0, keys), T(0),
         head.dq.RowRange(begin, count));
    Gemm(Trans::kYes, Trans::kNo, scale_, ds, head.q.RowRange(begin, count), beta,
         head.dk.RowRange(0, keys));
    if (head.near.recent > 0) AddNear(head, begin, p, ds);
  }
}

template <class T>
void CausalAttention<T>::AddNear(const Head& head, int64_t begin, MatrixView<const T> p,
                                 MatrixView<const T> ds) const {
  const int64_t d = shape_.head_dim;
  for (int64_t i = 0; i < p.rows; ++i) {
    const int64_t query = begin + i;
    const T* q = head.q.Row(query);
    const T* dout = head.dout.Row(query);
    for (int64_t key = std::max<int64_t>(query + 1 - head.near.recent, 0); key <= query; ++key) {
      const T of_value = p(i, key), of_key = scale_ * ds(i, key);
      T* dv = head.near.dv.Row(key);
      T* dk = head.near.dk.Row(key);
      for (int64_t c = 0; c < d; ++c) dv[c] += of_value * dout[c];
      for (int64_t c = 0; c < d; ++c) dk[c] += of_key * q[c];
    }
  }
}

// Each query head writes key and value gradients of its own, which are then summed in a fixed
// order: parallel over all heads and yet deterministic.
template <class T>
void CausalAttention<T>::Backward(MatrixView<const T> q, MatrixView<const T> k,
                                  MatrixView<const T> v, MatrixView<const T> dout, MatrixView<T> dq,
                                  MatrixView<T> dk, MatrixView<T> dv, const Near& near) {
  const bool shared = heads_per_kv() > 1;
  if (shared) {
    for (auto* m : {&dk_heads_, &dv_heads_}) m->Resize(q.rows, q.cols);
  }
  const MatrixView<T> dk_out = shared ? dk_heads_.View() : dk;
  const MatrixView<T> dv_out = shared ? dv_heads_.View() : dv;
  MatrixView<T> near_dk = near.dk, near_dv = near.dv;
  if (near.recent > 0) {
    if (shared) {
      for (auto* m : {&near_dk_heads_, &near_dv_heads_}) m->Resize(q.rows, q.cols);
      near_dk = near_dk_heads_;
      near_dv = near_dv_heads_;
    }
    for (const MatrixView<T>& m : {near_dk, near_dv}) {
      for (int64_t r = 0; r < m.rows; ++r) std::fill_n(m.Row(r), m.cols, T(0));
    }
  }
  pool_.ParallelFor(shape_.num_heads, [&](int64_t h, int worker) {
    const int64_t kv = h / heads_per_kv();
    Head head{HeadOf(q, h),  HeadOf(k, kv),     HeadOf(v, kv),     HeadOf(dout, h),
              HeadOf(dq, h), HeadOf(dk_out, h), HeadOf(dv_out, h), {}};
    if (near.recent > 0) head.near = {near.recent, HeadOf(near_dk, h), HeadOf(near_dv, h)};
    BackwardHead(head, scratch_[worker]);
  });
  if (shared) {
    SumOverQueryHeads(dk_heads_, dk);
    SumOverQueryHeads(dv_heads_, dv);
    if (near.recent > 0) {
      SumOverQueryHeads(near_dk_heads_, near.dk);
      SumOverQueryHeads(near_dv_heads_, near.dv);
    }
  }
}

template <class T>
void CausalAttention<T>::SumOverQueryHeads(MatrixView<const T> per_query_head,
                                           MatrixView<T> out) const {
  const int64_t d = shape_.head_dim;
  ForRowBlocks(pool_, out.rows, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      std::fill_n(out.Row(r), out.cols, T(0));
      for (int64_t head = 0; head < shape_.num_heads; ++head) {
        const T* in = per_query_head.Row(r) + head * d;
        T* sum = out.Row(r) + head / heads_per_kv() * d;
        for (int64_t i = 0; i < d; ++i) sum[i] += in[i];
      }
    }
  });
}

template class CausalAttention<float>;
template class CausalAttention<double>;

}  // namespace palu::grad
