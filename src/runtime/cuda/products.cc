#include "runtime/cuda/products.h"

#include <algorithm>

#include "ops/cuda/row_ops.h"

namespace palu::cuda {
namespace {

// Whether the streaming kernels read every matrix.
bool AllStream(const DeviceWeights& weights) {
  return Streams(weights.head().Matrix()) &&
         std::all_of(weights.layers.begin(), weights.layers.end(), [](const DeviceLayer& layer) {
           return Streams(layer.qkv.Matrix()) && Streams(layer.o.Matrix()) &&
                  Streams(layer.gate_up.Matrix()) && Streams(layer.down.Matrix());
         });
}

}  // namespace

Products::Products(const DeviceWeights& weights, bool batch_invariant)
    : linear_(batch_invariant), dtype_(weights.dtype), hidden_(weights.embedding.Matrix().cols) {
  for (const DeviceLayer& layer : weights.layers) {
    gate_up_ = std::max(gate_up_, layer.gate_up.Matrix().rows);
  }
  if (batch_invariant || !AllStream(weights)) return;
  streamed_rows_ = MaxStreamedRows(hidden_);
  for (const DeviceLayer& layer : weights.layers) {
    for (const DeviceTensor* matrix : {&layer.o, &layer.down}) {
      streamed_rows_ = std::min(streamed_rows_, MaxStreamedRows(matrix->Matrix().cols));
    }
  }
}

void Products::Reserve(ProductScratch& scratch, int64_t rows) const {
  if (rows <= streamed_rows_) return;
  scratch.normed.Resize(rows * hidden_ * static_cast<int64_t>(SizeOf(dtype_)));
  scratch.gate_up.Resize(rows * gate_up_);
}

void Products::Normed(const DeviceMatrix& x, const RowNorm& norm, const DeviceTensor& weight,
                      const DeviceTensor& bias, const ProductScratch& scratch,
                      const DeviceMatrix& y, cudaStream_t stream) {
  if (x.rows <= streamed_rows_) {
    return StreamedLinear(x, norm, weight.Matrix(), bias.AsFloat(), StreamedOutput::kStore, y,
                          stream);
  }
  const DeviceMatrix normed = MakeMatrix(scratch.normed.data(), dtype_, x.rows, x.cols);
  RmsNorm(x, norm.weight, norm.eps, normed, stream);
  linear_.Run(normed, weight.Matrix(), bias.AsFloat(), y, false, stream);
}

void Products::Gated(const DeviceMatrix& x, const RowNorm& norm, const DeviceLayer& layer,
                     const ProductScratch& scratch, const DeviceMatrix& y, cudaStream_t stream) {
  if (x.rows <= streamed_rows_) {
    return StreamedLinear(x, norm, layer.gate_up.Matrix(), layer.gate_up_bias.AsFloat(),
                          StreamedOutput::kSwiGlu, y, stream);
  }
  const DeviceMatrix gate_up = MakeMatrix(scratch.gate_up.data(), DType::kF32, x.rows, 2 * y.cols);
  Normed(x, norm, layer.gate_up, layer.gate_up_bias, scratch, gate_up, stream);
  SwiGlu(gate_up, y, y.dtype == DType::kF32 ? 1.0f : layer.gated_scale, stream);
}

void Products::Add(const DeviceMatrix& x, float scale, const DeviceTensor& weight,
                   const DeviceTensor& bias, const DeviceMatrix& sum, cudaStream_t stream) {
  if (x.rows <= streamed_rows_) {
    return StreamedLinear(x, {}, weight.Matrix(), bias.AsFloat(), StreamedOutput::kAdd, sum,
                          stream);
  }
  linear_.Run(x, weight.Matrix(), bias.AsFloat(), sum, true, stream,
              x.dtype == DType::kF32 ? 1.0f : 1.0f / scale);
}

}  // namespace palu::cuda
