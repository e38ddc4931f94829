#include "ops/cuda/element.cuh"
#include "ops/cuda/linear.h"
#include "ops/cuda/reduce.cuh"

namespace palu::cuda {
namespace {

constexpr int kWarps = 8;

template <class T>
__global__ void PlainKernel(const T* x, int64_t x_stride, const T* weight, int64_t w_stride,
                            const float* bias, float* y, int64_t y_stride, int n, int k,
                            bool accumulate, float alpha) {
  const int lane = threadIdx.x % 32, column = blockIdx.x * kWarps + threadIdx.x / 32;
  if (column >= n) return;
  const T* a = x + blockIdx.y * x_stride;
  const T* b = weight + column * w_stride;
  float sum = 0;
  for (int i = lane; i < k; i += 32) sum = fmaf(AsFloat(a[i]), AsFloat(b[i]), sum);
  sum = alpha * WarpSum(sum);
  if (lane != 0) return;
  if (bias != nullptr) sum += bias[column];
  float* target = y + blockIdx.y * y_stride + column;
  *target = accumulate ? *target + sum : sum;
}

}  // namespace

void PlainLinear(const DeviceMatrix& x, const DeviceMatrix& weight, const float* bias,
                 const DeviceMatrix& y, bool accumulate, float alpha, cudaStream_t stream) {
  WithType(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto n = static_cast<int>(weight.rows);
    const dim3 grid(static_cast<unsigned>((n + kWarps - 1) / kWarps),
                    static_cast<unsigned>(x.rows));
    PlainKernel<T><<<grid, 32 * kWarps, 0, stream>>>(
        static_cast<const T*>(x.data), x.stride, static_cast<const T*>(weight.data), weight.stride,
        bias, static_cast<float*>(y.data), y.stride, n, static_cast<int>(weight.cols), accumulate,
        alpha);
  });
  Check(cudaGetLastError(), "a product of odd rows");
}

}  // namespace palu::cuda
