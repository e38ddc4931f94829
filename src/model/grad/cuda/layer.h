// One decoder layer of the calibration graph on the device (model/grad/layer.h): its forward pass,
// and its backward pass from nothing but the layer's input. All in float32.
#pragma once

#include <span>

#include "linalg/cuda/blas.h"
#include "model/config.h"
#include "model/grad/cuda/attention.h"
#include "model/grad/cuda/kernels.h"
#include "model/grad/cuda/layer_weights.h"
#include "tensor/cuda/buffer.h"

namespace palu::cuda {

class GradLayer {
 public:
  // For windows of n tokens. inv_freq: RoPE's inverse frequencies, [head_dim / 2]. recent: of
  // FarGradients.
  GradLayer(const ModelConfig& config, int64_t n, int64_t recent, std::span<const double> inv_freq,
            Blas& blas, cudaStream_t stream);

  // What k_proj and v_proj of this layer read, given the residual stream h [n, hidden].
  MatrixView<const float> NormInput(const GradLayerWeights& w, const float* h);
  // After NormInput(w, h): the layer's output, which may take h's place.
  void Forward(const GradLayerWeights& w, const float* h, float* out);
  // d [n, hidden]: the gradient of the layer's output becomes that of its input h unless
  // `last`, when nobody needs it. Returns the gradients of W_k and W_v, stacked
  // [2 n_kv*d, hidden].
  MatrixView<const float> Backward(const GradLayerWeights& w, const float* h, bool last, float* d);
  // After Backward: the gradients of the outputs of k_proj and v_proj side by side, [n, 2 n_kv d],
  // whole and without what queries less than `recent` tokens later add.
  MatrixView<const float> KvGradients() const {
    return View(dqkv_, qkv_width_).ColRange(q_, qkv_width_ - q_);
  }
  MatrixView<const float> FarGradients() const;

 private:
  void Attend(const GradLayerWeights& w, const float* h);
  void Expand(const GradLayerWeights& w);
  // y = x W^T + b, or y += with `add`.
  void Linear(MatrixView<const float> x, const DeviceBuffer<float>& weight,
              const DeviceBuffer<float>& bias, bool add, MatrixView<float> y);
  // dx (+)= dy W
  void LinearBackward(MatrixView<const float> dy, const DeviceBuffer<float>& weight,
                      MatrixView<float> dx);
  MatrixView<float> View(const DeviceBuffer<float>& x, int64_t cols) const {
    return {x.data(), n_, cols};
  }
  Rows Hidden(const float* x) const;
  // The query and the key heads of [n, (n_q + 2 n_kv) d].
  Rows Queries(const DeviceBuffer<float>& qkv) const;
  Rows Keys(const DeviceBuffer<float>& qkv) const;
  void RotateBoth(const DeviceBuffer<float>& qkv, bool inverse);

  const ModelConfig& config_;
  int64_t n_, recent_, hidden_, q_, qkv_width_, inter_;
  float eps_;
  Blas& blas_;
  cudaStream_t stream_;
  WindowAttention window_attention_;
  DeviceBuffer<float> cos_, sin_;           // [n, d/2]
  DeviceBuffer<float> x_, middle_, y_;      // [n, hidden], as on the CPU
  DeviceBuffer<float> qkv_, raw_;           // [n, (n_q + 2 n_kv) d], raw_ before q_norm and k_norm
  DeviceBuffer<float> attention_;           // [n, n_q*d]
  DeviceBuffer<float> gate_up_;             // [n, 2 inter]
  DeviceBuffer<float> activation_;          // [n, inter]
  DeviceBuffer<float> dnormed_, dqkv_;      // gradients
  DeviceBuffer<float> dattention_, dw_kv_;  // [2 n_kv*d, hidden]
  DeviceBuffer<float> far_;                 // [n, 2 n_kv*d], with `recent` only
};

}  // namespace palu::cuda
