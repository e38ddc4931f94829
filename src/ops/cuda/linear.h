// y = x Wᵀ + b on the device by cuBLASLt; few float rows by streamed_linear.h.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <tuple>

#include "tensor/cuda/buffer.h"
#include "tensor/dtype.h"

namespace palu::cuda {

// A row-major matrix in device memory.
struct DeviceMatrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  int64_t stride = 0;  // elements between rows

  void* Row(int64_t r) const {
    return static_cast<char*>(data) + r * stride * static_cast<int64_t>(SizeOf(dtype));
  }
  DeviceMatrix RowRange(int64_t begin, int64_t count) const {
    return {Row(begin), dtype, count, cols, stride};
  }
  DeviceMatrix ColRange(int64_t begin, int64_t count) const {
    return {static_cast<char*>(data) + begin * static_cast<int64_t>(SizeOf(dtype)), dtype, rows,
            count, stride};
  }
};

template <class T>
DeviceMatrix MakeMatrix(T* data, DType dtype, int64_t rows, int64_t cols) {
  return {data, dtype, rows, cols, cols};
}

// Holds the library's handle, its workspace and the plans it has chosen. For one stream; calls of
// several streams need an object each.
class LinearRunner {
 public:
  // With `batch_invariant` a row of y has the same bits whatever the other rows are: rows go
  // through one plan in padded groups of a fixed size.
  explicit LinearRunner(bool batch_invariant);
  ~LinearRunner();
  LinearRunner(const LinearRunner&) = delete;
  LinearRunner& operator=(const LinearRunner&) = delete;

  // x [m, k] and weight [n, k] of one dtype (F32, F16 or BF16), bias [n] float or null, y [m, n]
  // float. F32 products are float32, never TF32. accumulate: y += instead of y =. Rows of x and
  // weight that do not start at multiples of 16 bytes are multiplied by a slow kernel. `alpha`
  // multiplies x Wᵀ, for rows that were scaled.
  void Run(const DeviceMatrix& x, const DeviceMatrix& weight, const float* bias,
           const DeviceMatrix& y, bool accumulate, cudaStream_t stream, float alpha = 1);

 private:
  struct Key {
    int64_t m, n, k, x_stride, w_stride, y_stride;
    DType dtype;
    bool bias;
    auto operator<=>(const Key&) const = default;
  };
  struct Plan;
  void Multiply(const DeviceMatrix& x, const DeviceMatrix& weight, const float* bias,
                const DeviceMatrix& y, bool accumulate, float alpha, cudaStream_t stream);
  const Plan& PlanFor(const Key& key);

  bool batch_invariant_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer<char> workspace_;
  DeviceBuffer<char> padded_x_;
  DeviceBuffer<float> padded_y_;
  std::map<Key, Plan> plans_;
};

// One warp per element of y, for shapes that fit nothing else; the same bits for a row in any
// batch.
void PlainLinear(const DeviceMatrix& x, const DeviceMatrix& weight, const float* bias,
                 const DeviceMatrix& y, bool accumulate, float alpha, cudaStream_t stream);

}  // namespace palu::cuda
