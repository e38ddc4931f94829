#include "model/calibration_graph.h"

#include <algorithm>
#include <utility>

#include "base/cancel.h"
#include "base/error.h"
#include "model/grad/loss.h"
#include "model/grad/rowwise.h"

namespace palu {

void RequireDense(const ModelWeights& weights) {
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    Require(!weights.layers[i].k.factored() && !weights.layers[i].v.factored(),
            "calibration: layer {} is already compressed; start from the dense model", i);
  }
}

void RequireWindow(const ModelConfig& config, std::span<const int32_t> ids) {
  Require(ids.size() >= 2, "calibration: a window needs at least 2 tokens, found {}", ids.size());
  for (int32_t id : ids) {
    Require(id >= 0 && id < config.vocab_size,
            "calibration: token {} is outside the vocabulary of {}", id, config.vocab_size);
  }
}

template <class T>
CalibrationGraph<T>::CalibrationGraph(const ModelConfig& config, const ModelWeights& weights,
                                      std::vector<double> inv_freq, ThreadPool& pool,
                                      int64_t recent)
    : config_(config),
      weights_(weights),
      inv_freq_(std::move(inv_freq)),
      pool_(pool),
      linear_(pool),
      layer_(config, pool, recent) {
  Require(static_cast<int64_t>(2 * inv_freq_.size()) == config.head_dim,
          "calibration: expected {} RoPE frequencies, found {}", config.head_dim / 2,
          inv_freq_.size());
  RequireDense(weights);
}

template <class T>
void CalibrationGraph<T>::CollectInputs(std::span<const int32_t> ids, const InputHook& on_input) {
  Begin(ids);
  Embed(ids);
  const int64_t last = config_.num_layers - 1;
  for (int64_t layer = 0; layer < last; ++layer) RunLayer(layer, on_input);
  on_input(last, layer_.NormInput(weights_.layers[last], h_));
}

template <class T>
double CalibrationGraph<T>::Loss(std::span<const int32_t> ids) {
  Begin(ids);
  Embed(ids);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) RunLayer(layer, nullptr);
  return FinishLoss(ids, /*gradient=*/false);
}

template <class T>
double CalibrationGraph<T>::Differentiate(std::span<const int32_t> ids, const InputHook& on_input,
                                          const GradientHook& on_gradient) {
  Begin(ids);
  Embed(ids);
  layer_inputs_.resize(config_.num_layers);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    layer_inputs_[layer].Resize(h_.rows(), h_.cols());
    std::copy_n(h_.data(), h_.size(), layer_inputs_[layer].data());
    RunLayer(layer, on_input);
  }
  const double loss = FinishLoss(ids, /*gradient=*/true);
  for (int64_t layer = config_.num_layers - 1; layer >= 0; --layer) {
    ThrowIfCancelled();
    const auto stop = layer > 0 ? grad::Layer<T>::Stop::kNever : grad::Layer<T>::Stop::kAtKvWeights;
    on_gradient(layer, layer_.Backward(weights_.layers[layer], layer_inputs_[layer], stop, d_));
  }
  return loss;
}

template <class T>
void CalibrationGraph<T>::Begin(std::span<const int32_t> ids) {
  RequireWindow(config_, ids);
  const auto n = static_cast<int64_t>(ids.size());
  for (auto* m : {&h_, &d_, &final_, &dfinal_}) m->Resize(n, config_.hidden_size);
  layer_.Resize(n, inv_freq_);
}

template <class T>
void CalibrationGraph<T>::Embed(std::span<const int32_t> ids) {
  for (size_t i = 0; i < ids.size(); ++i) {
    grad::Convert(weights_.embedding, ids[i] * h_.cols(), h_.cols(),
                  h_.Row(static_cast<int64_t>(i)));
  }
}

template <class T>
void CalibrationGraph<T>::RunLayer(int64_t layer, const InputHook& on_input) {
  ThrowIfCancelled();
  const auto x = layer_.NormInput(weights_.layers[layer], h_);
  if (on_input) on_input(layer, x);
  layer_.Forward(weights_.layers[layer], h_);
}

template <class T>
double CalibrationGraph<T>::FinishLoss(std::span<const int32_t> ids, bool gradient) {
  const double eps = config_.rms_norm_eps;
  grad::RmsNorm<T>(pool_, h_, linear_.Vector(weights_.final_norm), eps, final_);
  const double loss = grad::NextTokenLoss<T>(pool_, final_, linear_.Matrix(weights_.lm_head), ids,
                                             gradient ? dfinal_.View() : MatrixView<T>());
  if (gradient) {
    grad::RmsNormBackward<T>(pool_, h_, linear_.Vector(weights_.final_norm), eps, dfinal_,
                             grad::Into::kOverwrite, d_);
  }
  return loss;
}

template class CalibrationGraph<float>;
template class CalibrationGraph<double>;

}  // namespace palu
