#include "model/grad/cuda/layer.h"

#include "model/grad/rowwise.h"

namespace palu::cuda {

GradLayer::GradLayer(const ModelConfig& config, int64_t n, int64_t recent,
                     std::span<const double> inv_freq, Blas& blas, cudaStream_t stream)
    : config_(config),
      n_(n),
      recent_(recent),
      hidden_(config.hidden_size),
      q_(config.q_size()),
      qkv_width_(config.q_size() + 2 * config.kv_size()),
      inter_(config.intermediate_size),
      eps_(static_cast<float>(config.rms_norm_eps)),
      blas_(blas),
      stream_(stream),
      window_attention_(config, blas, stream) {
  grad::RopeTable<float> table;
  table.Fill(inv_freq, n);
  cos_.Resize(table.cos.size());
  sin_.Resize(table.sin.size());
  cos_.Upload(table.cos.data(), table.cos.size(), stream);
  sin_.Upload(table.sin.data(), table.sin.size(), stream);
  for (auto* m : {&x_, &middle_, &y_}) m->Resize(n * hidden_);
  qkv_.Resize(n * qkv_width_);
  if (config.qk_norm) raw_.Resize(n * qkv_width_);
  attention_.Resize(n * q_);
  gate_up_.Resize(n * 2 * inter_);
  activation_.Resize(n * inter_);
}

Rows GradLayer::Hidden(const float* x) const {
  return {const_cast<float*>(x), hidden_, n_, 1, static_cast<int32_t>(hidden_)};
}

Rows GradLayer::Queries(const DeviceBuffer<float>& qkv) const {
  return {qkv.data(), qkv_width_, n_, static_cast<int32_t>(config_.num_heads),
          static_cast<int32_t>(config_.head_dim)};
}

Rows GradLayer::Keys(const DeviceBuffer<float>& qkv) const {
  return {qkv.data() + q_, qkv_width_, n_, static_cast<int32_t>(config_.num_kv_heads),
          static_cast<int32_t>(config_.head_dim)};
}

void GradLayer::RotateBoth(const DeviceBuffer<float>& qkv, bool inverse) {
  Rotate(cos_.data(), sin_.data(), inverse, Queries(qkv), stream_);
  Rotate(cos_.data(), sin_.data(), inverse, Keys(qkv), stream_);
}

void GradLayer::Linear(MatrixView<const float> x, const DeviceBuffer<float>& weight,
                       const DeviceBuffer<float>& bias, bool add, MatrixView<float> y) {
  blas_.Gemm(Trans::kNo, Trans::kYes, 1, x, {weight.data(), y.cols, x.cols}, add ? 1 : 0, y);
  if (bias.data() == nullptr) return;
  AddBias(bias.data(), {y.data, y.stride, y.rows, 1, static_cast<int32_t>(y.cols)}, stream_);
}

void GradLayer::LinearBackward(MatrixView<const float> dy, const DeviceBuffer<float>& weight,
                               MatrixView<float> dx) {
  blas_.Gemm(Trans::kNo, Trans::kNo, 1, dy, {weight.data(), dy.cols, dx.cols}, 0, dx);
}

MatrixView<const float> GradLayer::NormInput(const GradLayerWeights& w, const float* h) {
  NormRows(Hidden(h), w.input_norm.data(), eps_, Hidden(x_.data()), stream_);
  return View(x_, hidden_);
}

void GradLayer::Attend(const GradLayerWeights& w, const float* h) {
  const bool norm = config_.qk_norm;
  Linear(View(x_, hidden_), w.qkv, w.qkv_bias, false, View(norm ? raw_ : qkv_, qkv_width_));
  if (norm) {
    Check(cudaMemcpyAsync(qkv_.data(), raw_.data(), static_cast<size_t>(qkv_.bytes()),
                          cudaMemcpyDeviceToDevice, stream_),
          "copying on the device");
    NormRows(Queries(raw_), w.q_norm.data(), eps_, Queries(qkv_), stream_);
    NormRows(Keys(raw_), w.k_norm.data(), eps_, Keys(qkv_), stream_);
  }
  RotateBoth(qkv_, false);
  window_attention_.Forward(View(qkv_, qkv_width_), View(attention_, q_));
  Check(cudaMemcpyAsync(middle_.data(), h, static_cast<size_t>(n_ * hidden_) * sizeof(float),
                        cudaMemcpyDeviceToDevice, stream_),
        "copying on the device");
  Linear(View(attention_, q_), w.o, w.o_bias, true, View(middle_, hidden_));
}

void GradLayer::Expand(const GradLayerWeights& w) {
  NormRows(Hidden(middle_.data()), w.post_norm.data(), eps_, Hidden(y_.data()), stream_);
  Linear(View(y_, hidden_), w.gate_up, w.gate_up_bias, false, View(gate_up_, 2 * inter_));
}

void GradLayer::Forward(const GradLayerWeights& w, const float* h, float* out) {
  Attend(w, h);
  Expand(w);
  GatedRows(gate_up_.data(), n_, inter_, activation_.data(), stream_);
  Check(cudaMemcpyAsync(out, middle_.data(), static_cast<size_t>(n_ * hidden_) * sizeof(float),
                        cudaMemcpyDeviceToDevice, stream_),
        "copying on the device");
  Linear(View(activation_, inter_), w.down, w.down_bias, true, {out, n_, hidden_});
}

MatrixView<const float> GradLayer::Backward(const GradLayerWeights& w, const float* h, bool last,
                                            float* d) {
  const int64_t kv_rows = qkv_width_ - q_;
  dnormed_.Resize(n_ * hidden_);
  dattention_.Resize(n_ * q_);
  dqkv_.Resize(n_ * qkv_width_);
  dw_kv_.Resize(kv_rows * hidden_);
  NormInput(w, h);
  Attend(w, h);
  Expand(w);

  const MatrixView<float> gradient(d, n_, hidden_);
  LinearBackward(gradient, w.down, View(activation_, inter_));
  GatedRowsBackward(activation_.data(), n_, inter_, gate_up_.data(), stream_);
  LinearBackward(View(gate_up_, 2 * inter_), w.gate_up, View(dnormed_, hidden_));
  NormRowsBackward(Hidden(middle_.data()), w.post_norm.data(), eps_, Hidden(dnormed_.data()), true,
                   Hidden(d), stream_);

  LinearBackward(gradient, w.o, View(dattention_, q_));
  if (recent_ > 0) far_.Resize(n_ * kv_rows);
  window_attention_.Backward(View(qkv_, qkv_width_), View(dattention_, q_), View(dqkv_, qkv_width_),
                             recent_, far_.data());
  if (recent_ > 0) {
    TakeFrom(View(dqkv_, qkv_width_).ColRange(q_, kv_rows), far_.data(), stream_);
    const Rows keys{far_.data(), kv_rows, n_, static_cast<int32_t>(config_.num_kv_heads),
                    static_cast<int32_t>(config_.head_dim)};
    Rotate(cos_.data(), sin_.data(), true, keys, stream_);
    if (config_.qk_norm) {
      NormRowsBackward(Keys(raw_), w.k_norm.data(), eps_, keys, false, keys, stream_);
    }
  }
  RotateBoth(dqkv_, true);
  if (config_.qk_norm) {
    NormRowsBackward(Queries(raw_), w.q_norm.data(), eps_, Queries(dqkv_), false, Queries(dqkv_),
                     stream_);
    NormRowsBackward(Keys(raw_), w.k_norm.data(), eps_, Keys(dqkv_), false, Keys(dqkv_), stream_);
  }
  const MatrixView<float> dw(dw_kv_.data(), kv_rows, hidden_);
  blas_.Gemm(Trans::kYes, Trans::kNo, 1, View(dqkv_, qkv_width_).ColRange(q_, kv_rows),
             View(x_, hidden_), 0, dw);
  if (!last) {
    LinearBackward(View(dqkv_, qkv_width_), w.qkv, View(dnormed_, hidden_));
    NormRowsBackward(Hidden(h), w.input_norm.data(), eps_, Hidden(dnormed_.data()), true, Hidden(d),
                     stream_);
  }
  return dw;
}

MatrixView<const float> GradLayer::FarGradients() const {
  if (recent_ == 0) return KvGradients();
  return {far_.data(), n_, qkv_width_ - q_};
}

}  // namespace palu::cuda
