// One decoder layer of the calibration graph: its forward pass, and its backward pass from nothing
// but the layer's input. Activations live in buffers that all layers share.
#pragma once

#include <span>

#include "base/thread_pool.h"
#include "model/config.h"
#include "model/grad/attention.h"
#include "model/grad/linear.h"
#include "model/grad/rowwise.h"
#include "model/weights.h"
#include "tensor/tensor.h"

namespace palu {

// Derivatives of one window's loss at a layer's key and value projections. The views are valid only
// during the callback that receives them.
template <class T>
struct KvGradients {
  MatrixView<const T> dwk, dwv;  // of the weights W_k, W_v [n_kv*d, hidden]
  // Of the projections' outputs (before k_norm, RoPE) [n, n_kv*d]: whole, and without what queries
  // less than `recent` tokens later add, which do not meet what is stored of a token.
  MatrixView<const T> dk, dv, far_dk, far_dv;
};

namespace grad {

template <class T>
class Layer {
 public:
  // recent: of KvGradients.
  Layer(const ModelConfig& config, ThreadPool& pool, int64_t recent);

  // Prepares for windows of n tokens. inv_freq: [head_dim / 2].
  void Resize(int64_t n, std::span<const double> inv_freq);

  // What k_proj and v_proj of this layer read, given the residual stream h [n, hidden].
  MatrixView<const T> NormInput(const LayerWeights& w, MatrixView<const T> h);
  // After NormInput(w, h): h becomes the layer's output.
  void Forward(const LayerWeights& w, MatrixView<T> h);

  enum class Stop { kNever, kAtKvWeights };
  // d [n, hidden]: the gradient of the layer's output becomes that of its input h, unless the
  // caller needs only the projections' gradients, which are returned.
  KvGradients<T> Backward(const LayerWeights& w, MatrixView<const T> h, Stop stop, MatrixView<T> d);

 private:
  // q_, k_, v_, attention_ and middle_ from x_ and the residual h.
  void Attend(const LayerWeights& w, MatrixView<const T> h);
  // gate_, up_ and activation_ from middle_.
  void Expand(const LayerWeights& w);
  void NormalizeHeads(const LayerWeights& w);
  void NormalizeHeadsBackward(const Matrix<T>& raw, const TensorView& norm, Matrix<T>& gradient);
  // The per-head norms see [n * heads, d].
  MatrixView<T> PerHead(const Matrix<T>& x) const;

  const ModelConfig& config_;
  ThreadPool& pool_;
  int64_t recent_;
  Linear<T> linear_;
  CausalAttention<T> causal_attention_;
  RopeTable<T> rope_;
  Matrix<T> x_;                       // [n, hidden] normed input
  Matrix<T> q_, k_, v_;               // [n, heads*d] as attention reads them
  Matrix<T> q_raw_, k_raw_;           // before q_norm and k_norm, Qwen3 only
  Matrix<T> attention_;               // [n, n_q*d]
  Matrix<T> middle_, y_;              // [n, hidden] residual between the two blocks, and normed
  Matrix<T> gate_, up_, activation_;  // [n, inter]; the last also takes its own gradient
  Matrix<T> dnormed_;                 // [n, hidden] gradient of y_, then of x_
  Matrix<T> dattention_;              // [n, n_q*d]
  Matrix<T> dq_, dk_, dv_, far_dk_, far_dv_;
  Matrix<T> dwk_, dwv_;  // [n_kv*d, hidden]
};

}  // namespace grad
}  // namespace palu
