#include "runtime/cuda/half_weights.h"

#include <algorithm>
#include <cmath>

#include "ops/cuda/half_matrix.h"

namespace palu::cuda {
namespace {

constexpr float kLargestHalf = 65504.0f;
constexpr double kMaxError = 0x1p-13;  // of a matrix's norm
// Room for the roundings of the bounds themselves and of rows before they meet them.
constexpr float kMargin = 0.99f;

std::vector<DeviceTensor*> Matrices(DeviceWeights& weights) {
  std::vector<DeviceTensor*> matrices = {&weights.embedding};
  if (weights.lm_head) matrices.push_back(&weights.lm_head);
  for (DeviceLayer& layer : weights.layers) {
    for (DeviceTensor* matrix : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      matrices.push_back(matrix);
    }
  }
  return matrices;
}

// Host copies of small device arrays.
template <class T>
std::vector<T> Fetch(const DeviceBuffer<T>& buffer, cudaStream_t stream) {
  std::vector<T> host(static_cast<size_t>(buffer.size()));
  buffer.Download(host.data(), buffer.size(), stream);
  Check(cudaStreamSynchronize(stream), "running on the device");
  return host;
}

template <class T>
DeviceBuffer<T> Zeros(int64_t n, cudaStream_t stream) {
  DeviceBuffer<T> buffer(n);
  Check(cudaMemsetAsync(buffer.data(), 0, static_cast<size_t>(n) * sizeof(T), stream), "clearing");
  return buffer;
}

bool MatricesFit(const std::vector<DeviceTensor*>& matrices, cudaStream_t stream) {
  const auto errors = Zeros<HalfError>(std::ssize(matrices), stream);
  for (size_t i = 0; i < matrices.size(); ++i) {
    AddHalfError(matrices[i]->Matrix(), errors.data() + i, stream);
  }
  const std::vector<HalfError> sums = Fetch(errors, stream);
  return std::all_of(sums.begin(), sums.end(), [](const HalfError& e) {
    return e.error_squares <= kMaxError * kMaxError * e.squares;  // false for NaN
  });
}

// The largest normalised element, and the largest of gate * up per layer.
struct Bounds {
  float normed = 0;
  std::vector<float> gated;
};

Bounds BoundRows(const ModelConfig& config, const DeviceWeights& weights, cudaStream_t stream) {
  const auto length = std::sqrt(static_cast<float>(config.hidden_size));  // of a row over its rms
  const auto largest = Zeros<float>(1 + std::ssize(weights.layers), stream);
  const auto raise = [&](const DeviceTensor& norm) {
    RaiseToLargest(norm.AsFloat(), config.hidden_size, largest.data(), stream);
  };
  raise(weights.final_norm);
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    const DeviceLayer& layer = weights.layers[l];
    raise(layer.input_norm);
    raise(layer.post_norm);
    RaiseGatedBound(layer.gate_up.Matrix(), layer.post_norm.AsFloat(), layer.gate_up_bias.AsFloat(),
                    length, largest.data() + 1 + l, stream);
  }
  std::vector<float> bounds = Fetch(largest, stream);
  return {bounds[0] * length, {bounds.begin() + 1, bounds.end()}};
}

}  // namespace

bool TakeHalf(const ModelConfig& config, DeviceWeights& weights, cudaStream_t stream) {
  const std::vector<DeviceTensor*> matrices = Matrices(weights);
  if (!MatricesFit(matrices, stream)) return false;
  const Bounds bounds = BoundRows(config, weights, stream);
  constexpr float kLimit = kMargin * kLargestHalf;
  if (!(bounds.normed <= kLimit)) return false;
  for (const float gated : bounds.gated) {
    if (!std::isfinite(gated)) return false;
  }
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    float& scale = weights.layers[l].gated_scale;
    for (float gated = bounds.gated[l]; gated > kLimit; gated /= 2) scale /= 2;
  }
  for (DeviceTensor* matrix : matrices) {
    ConvertToHalf(matrix->Matrix(), stream);
    matrix->Reinterpret(DType::kF16);
  }
  weights.dtype = DType::kF16;
  return true;
}

}  // namespace palu::cuda
