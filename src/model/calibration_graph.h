// What calibration needs from a dense model, one window of text at a time: the inputs of every key
// and value projection (for the Gram matrices), and the derivatives of the loss at both (for the
// Fisher information). Keeps one [n, hidden] per layer and recomputes the rest in the backward
// pass; attention scores and logits exist in blocks only.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "model/config.h"
#include "model/grad/layer.h"
#include "model/weights.h"
#include "tensor/tensor.h"

namespace palu {

// Throws Error when the model is already factored, and for a window that cannot be differentiated.
void RequireDense(const ModelWeights& weights);
void RequireWindow(const ModelConfig& config, std::span<const int32_t> ids);

// T is float for work and double to check derivatives. Config, weights and pool must outlive it.
template <class T>
class CalibrationGraph {
 public:
  // x [n, hidden]: the output of the layer's input norm, valid during the call.
  using InputHook = std::function<void(int64_t layer, MatrixView<const T> x)>;
  using GradientHook = std::function<void(int64_t layer, const KvGradients<T>& gradients)>;

  // inv_freq: RoPE's inverse frequencies, scaling rules applied, [head_dim / 2]. recent: of
  // KvGradients. Throws Error when the model is already factored.
  CalibrationGraph(const ModelConfig& config, const ModelWeights& weights,
                   std::vector<double> inv_freq, ThreadPool& pool, int64_t recent = 0);

  // Forward only, as far as the last layer's projections.
  void CollectInputs(std::span<const int32_t> ids, const InputHook& on_input);

  // Mean next-token cross entropy over the n-1 positions, in nats.
  double Loss(std::span<const int32_t> ids);

  // Forward and backward; returns the loss. `on_gradient` is called from the last layer to the
  // first; `on_input` may be empty. Throws Error unless n >= 2 and all ids are in the vocabulary.
  double Differentiate(std::span<const int32_t> ids, const InputHook& on_input,
                       const GradientHook& on_gradient);

 private:
  void Begin(std::span<const int32_t> ids);
  void Embed(std::span<const int32_t> ids);
  void RunLayer(int64_t layer, const InputHook& on_input);
  // From the residual stream h_; leaves its gradient in d_ when asked.
  double FinishLoss(std::span<const int32_t> ids, bool gradient);

  const ModelConfig& config_;
  const ModelWeights& weights_;
  const std::vector<double> inv_freq_;
  ThreadPool& pool_;
  grad::Linear<T> linear_;
  grad::Layer<T> layer_;
  Matrix<T> h_;                          // [n, hidden] residual stream
  Matrix<T> d_;                          // its gradient
  Matrix<T> final_, dfinal_;             // [n, hidden] after the final norm
  std::vector<Matrix<T>> layer_inputs_;  // the residual stream that enters each layer
};

}  // namespace palu
