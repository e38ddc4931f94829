#include "ops/cuda/half_matrix.h"

#include <algorithm>
#include <cassert>

#include "ops/cuda/element.cuh"
#include "ops/cuda/reduce.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096;

template <class Body>
__device__ void ForEachElement(int64_t n, const Body& body) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) {
    body(i);
  }
}

__global__ void ErrorKernel(const __nv_bfloat16* w, int64_t n, HalfError* sums) {
  double squares = 0, errors = 0;
  ForEachElement(n, [&](int64_t i) {
    const float x = AsFloat(w[i]), error = x - AsFloat(FromFloat<__half>(x));
    squares += static_cast<double>(x) * x;
    errors += static_cast<double>(error) * error;
  });
  const auto add = [](double a, double b) { return a + b; };
  squares = BlockReduce(squares, 0.0, add);
  errors = BlockReduce(errors, 0.0, add);
  if (threadIdx.x != 0) return;
  atomicAdd(&sums->squares, squares);
  atomicAdd(&sums->error_squares, errors);
}

__global__ void ConvertKernel(uint16_t* w, int64_t n) {
  ForEachElement(n, [&](int64_t i) {
    w[i] = __half_as_ushort(FromFloat<__half>(AsFloat(__ushort_as_bfloat16(w[i]))));
  });
}

// Floats that are not negative are ordered as their bits are.
__device__ void Raise(float* largest, float x) {
  atomicMax(reinterpret_cast<int*>(largest), __float_as_int(x));
}

// A warp per j.
__global__ void GatedKernel(const __nv_bfloat16* w, int64_t stride, const float* norm,
                            const float* bias, int half, int k, float r, float* largest) {
  const int lane = threadIdx.x % 32;
  const int j = static_cast<int>(blockIdx.x) * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (j >= half) return;
  float bound = 1;
  for (const int row : {j, j + half}) {
    float squares = 0;
    for (int i = lane; i < k; i += 32) {
      const float x = AsFloat(w[row * stride + i]) * norm[i];
      squares = fmaf(x, x, squares);
    }
    bound *= sqrtf(WarpSum(squares)) * r + (bias == nullptr ? 0 : fabsf(bias[row]));
  }
  if (lane == 0) Raise(largest, bound);
}

__global__ void LargestKernel(const float* x, int64_t n, float* largest) {
  float most = 0;
  ForEachElement(n, [&](int64_t i) { most = fmaxf(most, fabsf(x[i])); });
  most = BlockReduce(most, 0.0f, [](float a, float b) { return fmaxf(a, b); });
  if (threadIdx.x == 0) Raise(largest, most);
}

unsigned Blocks(int64_t n) {
  return static_cast<unsigned>(std::clamp<int64_t>((n + kThreads - 1) / kThreads, 1, kMaxBlocks));
}

}  // namespace

void AddHalfError(const DeviceMatrix& matrix, HalfError* sums, cudaStream_t stream) {
  assert(matrix.dtype == DType::kBF16 && matrix.stride == matrix.cols);
  const int64_t n = matrix.rows * matrix.cols;
  ErrorKernel<<<Blocks(n), kThreads, 0, stream>>>(static_cast<const __nv_bfloat16*>(matrix.data), n,
                                                  sums);
  Check(cudaGetLastError(), "comparing weights with F16");
}

void ConvertToHalf(const DeviceMatrix& matrix, cudaStream_t stream) {
  assert(matrix.dtype == DType::kBF16 && matrix.stride == matrix.cols);
  const int64_t n = matrix.rows * matrix.cols;
  ConvertKernel<<<Blocks(n), kThreads, 0, stream>>>(static_cast<uint16_t*>(matrix.data), n);
  Check(cudaGetLastError(), "converting weights");
}

void RaiseGatedBound(const DeviceMatrix& gate_up, const float* norm, const float* bias, float r,
                     float* largest, cudaStream_t stream) {
  assert(gate_up.dtype == DType::kBF16 && gate_up.rows % 2 == 0);
  const auto half = static_cast<int>(gate_up.rows / 2);
  constexpr int kWarps = kThreads / 32;
  GatedKernel<<<static_cast<unsigned>((half + kWarps - 1) / kWarps), kThreads, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(gate_up.data), gate_up.stride, norm, bias, half,
      static_cast<int>(gate_up.cols), r, largest);
  Check(cudaGetLastError(), "bounding rows of gate and up");
}

void RaiseToLargest(const float* x, int64_t n, float* largest, cudaStream_t stream) {
  LargestKernel<<<Blocks(n), kThreads, 0, stream>>>(x, n, largest);
  Check(cudaGetLastError(), "bounding rows");
}

}  // namespace palu::cuda
