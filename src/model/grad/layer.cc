#include "model/grad/layer.h"

#include "model/grad/parallel.h"

namespace palu::grad {
namespace {

// part = whole - part.
template <class T>
void TakeFrom(ThreadPool& pool, MatrixView<const T> whole, MatrixView<T> part) {
  ForRowBlocks(pool, part.rows, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      for (int64_t c = 0; c < part.cols; ++c) part(r, c) = whole(r, c) - part(r, c);
    }
  });
}

}  // namespace

template <class T>
Layer<T>::Layer(const ModelConfig& config, ThreadPool& pool, int64_t recent)
    : config_(config),
      pool_(pool),
      recent_(recent),
      linear_(pool),
      causal_attention_({config.num_heads, config.num_kv_heads, config.head_dim}, pool) {}

template <class T>
void Layer<T>::Resize(int64_t n, std::span<const double> inv_freq) {
  rope_.Fill(inv_freq, n);
  for (auto* m : {&x_, &middle_, &y_, &dnormed_}) m->Resize(n, config_.hidden_size);
  for (auto* m : {&q_, &attention_, &dattention_, &dq_}) m->Resize(n, config_.q_size());
  for (auto* m : {&k_, &v_, &dk_, &dv_}) m->Resize(n, config_.kv_size());
  for (auto* m : {&gate_, &up_, &activation_}) m->Resize(n, config_.intermediate_size);
  for (auto* m : {&dwk_, &dwv_}) m->Resize(config_.kv_size(), config_.hidden_size);
  if (recent_ > 0) {
    for (auto* m : {&far_dk_, &far_dv_}) m->Resize(n, config_.kv_size());
  }
  if (config_.qk_norm) {
    q_raw_.Resize(n, config_.q_size());
    k_raw_.Resize(n, config_.kv_size());
  }
}

template <class T>
MatrixView<const T> Layer<T>::NormInput(const LayerWeights& w, MatrixView<const T> h) {
  RmsNorm<T>(pool_, h, linear_.Vector(w.input_norm), config_.rms_norm_eps, x_);
  return x_;
}

template <class T>
void Layer<T>::Attend(const LayerWeights& w, MatrixView<const T> h) {
  linear_.Forward(x_, w.q, w.q_bias, Into::kOverwrite, config_.qk_norm ? q_raw_ : q_);
  linear_.Forward(x_, w.k.dense, w.k.bias, Into::kOverwrite, config_.qk_norm ? k_raw_ : k_);
  linear_.Forward(x_, w.v.dense, w.v.bias, Into::kOverwrite, v_);
  if (config_.qk_norm) NormalizeHeads(w);
  Rope<T>(pool_, rope_, Rotation::kForward, q_);
  Rope<T>(pool_, rope_, Rotation::kForward, k_);
  causal_attention_.Forward(q_, k_, v_, attention_);
  for (int64_t r = 0; r < h.rows; ++r) std::copy_n(h.Row(r), h.cols, middle_.Row(r));
  linear_.Forward(attention_, w.o, w.o_bias, Into::kAdd, middle_);
}

template <class T>
void Layer<T>::Expand(const LayerWeights& w) {
  RmsNorm<T>(pool_, middle_, linear_.Vector(w.post_norm), config_.rms_norm_eps, y_);
  linear_.Forward(y_, w.gate, w.gate_bias, Into::kOverwrite, gate_);
  linear_.Forward(y_, w.up, w.up_bias, Into::kOverwrite, up_);
}

template <class T>
void Layer<T>::Forward(const LayerWeights& w, MatrixView<T> h) {
  Attend(w, h);
  Expand(w);
  SwiGlu<T>(pool_, gate_, up_, activation_);
  for (int64_t r = 0; r < h.rows; ++r) std::copy_n(middle_.Row(r), h.cols, h.Row(r));
  linear_.Forward(activation_, w.down, w.down_bias, Into::kAdd, h);
}

template <class T>
KvGradients<T> Layer<T>::Backward(const LayerWeights& w, MatrixView<const T> h, Stop stop,
                                  MatrixView<T> d) {
  NormInput(w, h);
  Attend(w, h);
  Expand(w);

  linear_.Backward(d, w.down, Into::kOverwrite, activation_);
  SwiGluBackward<T>(pool_, activation_, gate_, up_);
  linear_.Backward(gate_, w.gate, Into::kOverwrite, dnormed_);
  linear_.Backward(up_, w.up, Into::kAdd, dnormed_);
  RmsNormBackward<T>(pool_, middle_, linear_.Vector(w.post_norm), config_.rms_norm_eps, dnormed_,
                     Into::kAdd, d);

  linear_.Backward(d, w.o, Into::kOverwrite, dattention_);
  if (recent_ > 0) {
    causal_attention_.Backward(q_, k_, v_, dattention_, dq_, dk_, dv_, {recent_, far_dk_, far_dv_});
    TakeFrom<T>(pool_, dk_, far_dk_);
    TakeFrom<T>(pool_, dv_, far_dv_);
    Rope<T>(pool_, rope_, Rotation::kInverse, far_dk_);
    if (config_.qk_norm) NormalizeHeadsBackward(k_raw_, w.k_norm, far_dk_);
  } else {
    causal_attention_.Backward(q_, k_, v_, dattention_, dq_, dk_, dv_);
  }
  Rope<T>(pool_, rope_, Rotation::kInverse, dq_);
  Rope<T>(pool_, rope_, Rotation::kInverse, dk_);
  if (config_.qk_norm) {
    NormalizeHeadsBackward(q_raw_, w.q_norm, dq_);
    NormalizeHeadsBackward(k_raw_, w.k_norm, dk_);
  }
  ParallelGemm<T>(pool_, Trans::kYes, Trans::kNo, T(1), dk_, x_, T(0), dwk_);
  ParallelGemm<T>(pool_, Trans::kYes, Trans::kNo, T(1), dv_, x_, T(0), dwv_);

  if (stop == Stop::kNever) {
    linear_.Backward(dq_, w.q, Into::kOverwrite, dnormed_);
    linear_.Backward(dk_, w.k.dense, Into::kAdd, dnormed_);
    linear_.Backward(dv_, w.v.dense, Into::kAdd, dnormed_);
    RmsNormBackward<T>(pool_, h, linear_.Vector(w.input_norm), config_.rms_norm_eps, dnormed_,
                       Into::kAdd, d);
  }
  const bool far = recent_ > 0;
  return {dwk_, dwv_, dk_, dv_, far ? far_dk_ : dk_, far ? far_dv_ : dv_};
}

template <class T>
MatrixView<T> Layer<T>::PerHead(const Matrix<T>& x) const {
  return {x.data(), x.size() / config_.head_dim, config_.head_dim};
}

template <class T>
void Layer<T>::NormalizeHeads(const LayerWeights& w) {
  const double eps = config_.rms_norm_eps;
  RmsNorm<T>(pool_, PerHead(q_raw_), linear_.Vector(w.q_norm), eps, PerHead(q_));
  RmsNorm<T>(pool_, PerHead(k_raw_), linear_.Vector(w.k_norm), eps, PerHead(k_));
}

template <class T>
void Layer<T>::NormalizeHeadsBackward(const Matrix<T>& raw, const TensorView& norm,
                                      Matrix<T>& gradient) {
  RmsNormBackward<T>(pool_, PerHead(raw), linear_.Vector(norm), config_.rms_norm_eps,
                     PerHead(gradient), Into::kOverwrite, PerHead(gradient));
}

template class Layer<float>;
template class Layer<double>;

}  // namespace palu::grad
