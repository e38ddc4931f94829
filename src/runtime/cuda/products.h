// The products of a layer with what stands around them: few rows by the streaming kernels, which
// take float rows, many rows by the library, whose rows are rounded to the weights' type first.
#pragma once

#include <algorithm>

#include "ops/cuda/linear.h"
#include "ops/cuda/streamed_linear.h"
#include "runtime/cuda/device_weights.h"

namespace palu::cuda {

// Buffers that products of many rows pass through.
struct ProductScratch {
  DeviceBuffer<char> normed;    // [rows, hidden] of the weights' type
  DeviceBuffer<float> gate_up;  // [rows, 2 inter]
};

class Products {
 public:
  // With `batch_invariant` all rows go the library's one way (LinearRunner). The weights outlive
  // this object.
  Products(const DeviceWeights& weights, bool batch_invariant);

  void Reserve(ProductScratch& scratch, int64_t rows) const;

  // Element type of rows that enter a product without a norm, in a step of so many rows.
  DType RowType(int64_t rows) const { return rows <= streamed_rows_ ? DType::kF32 : dtype_; }
  // What one column of such rows takes in a step of at most so many.
  int64_t BytesOfRows(int64_t rows) const {
    return std::max(rows * static_cast<int64_t>(SizeOf(dtype_)),
                    std::min(rows, streamed_rows_) * static_cast<int64_t>(sizeof(float)));
  }

  // y = norm(x) Wᵀ + b; x [m, hidden] and y [m, n] float.
  void Normed(const DeviceMatrix& x, const RowNorm& norm, const DeviceTensor& weight,
              const DeviceTensor& bias, const ProductScratch& scratch, const DeviceMatrix& y,
              cudaStream_t stream);
  // y = silu(gate) * up of the layer's feed-forward rows norm(x), in RowType: times
  // layer.gated_scale unless that is F32. y [m, inter].
  void Gated(const DeviceMatrix& x, const RowNorm& norm, const DeviceLayer& layer,
             const ProductScratch& scratch, const DeviceMatrix& y, cudaStream_t stream);
  // sum += x Wᵀ / scale + b; x [m, k] of RowType, which for F32 was not scaled.
  void Add(const DeviceMatrix& x, float scale, const DeviceTensor& weight, const DeviceTensor& bias,
           const DeviceMatrix& sum, cudaStream_t stream);

  LinearRunner& linear() { return linear_; }

 private:
  LinearRunner linear_;
  DType dtype_;
  int64_t hidden_ = 0, gate_up_ = 0;
  int64_t streamed_rows_ = 0;  // up to which the streaming kernels run
};

}  // namespace palu::cuda
