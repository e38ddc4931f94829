#include "ops/cuda/row_ops.h"

#include <cassert>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/element.cuh"
#include "ops/cuda/reduce.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void GatherKernel(const T* table, int64_t stride, const int32_t* ids, float* out,
                             int64_t out_stride, int d) {
  LetNextKernelStart();
  const T* row = table + ids[blockIdx.x] * stride;
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    out[blockIdx.x * out_stride + i] = AsFloat(row[i]);
  }
}

template <class T>
__global__ void SelectKernel(const T* x, int64_t stride, const int32_t* rows, T* out,
                             int64_t out_stride, int d) {
  const T* row = x + rows[blockIdx.x] * stride;
  for (int i = threadIdx.x; i < d; i += blockDim.x) out[blockIdx.x * out_stride + i] = row[i];
}

// A thread keeps up to kNormPacks groups of four elements of the row; longer rows are read twice.
constexpr int kNormThreads = 1024;
constexpr int kNormPacks = 2;

template <class T>
__global__ void __launch_bounds__(kNormThreads)
    RmsNormKernel(const float* x, int64_t x_stride, const float* weight, float eps, T* y,
                  int64_t y_stride, int d) {
  const float* row = x + blockIdx.x * x_stride;
  T* to = y + blockIdx.x * y_stride;
  const int thread = threadIdx.x;
  const auto load = [&](int at) {
    return at < d ? *reinterpret_cast<const float4*>(row + at) : make_float4(0, 0, 0, 0);
  };
  float4 kept[kNormPacks];
  float squares = 0;
  const auto add = [&](const float4& v) {
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
  };
#pragma unroll
  for (int p = 0; p < kNormPacks; ++p) kept[p] = load((p * kNormThreads + thread) * 4);
#pragma unroll
  for (int p = 0; p < kNormPacks; ++p) add(kept[p]);
  for (int at = (kNormPacks * kNormThreads + thread) * 4; at < d; at += kNormThreads * 4) {
    add(load(at));
  }
  squares = BlockReduce(squares, 0.0f, [](float a, float b) { return a + b; });
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(d) + eps);
  const auto store = [&](int at, const float4& v) {
    if (at >= d) return;
    const float4 w = *reinterpret_cast<const float4*>(weight + at);
    to[at] = FromFloat<T>(v.x * scale * w.x);
    to[at + 1] = FromFloat<T>(v.y * scale * w.y);
    to[at + 2] = FromFloat<T>(v.z * scale * w.z);
    to[at + 3] = FromFloat<T>(v.w * scale * w.w);
  };
#pragma unroll
  for (int p = 0; p < kNormPacks; ++p) store((p * kNormThreads + thread) * 4, kept[p]);
  for (int at = (kNormPacks * kNormThreads + thread) * 4; at < d; at += kNormThreads * 4) {
    store(at, load(at));
  }
}

template <class T>
__global__ void SwiGluKernel(const float* gate_up, int64_t stride, T* out, int64_t out_stride,
                             int d, float scale) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d) return;
  const float gate = gate_up[blockIdx.y * stride + i], up = gate_up[blockIdx.y * stride + d + i];
  out[blockIdx.y * out_stride + i] = FromFloat<T>(gate / (1.0f + expf(-gate)) * up * scale);
}

template <class T>
__global__ void ConvertKernel(const float* x, int64_t stride, T* out, int64_t out_stride, int d) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < d) out[blockIdx.y * out_stride + i] = FromFloat<T>(x[blockIdx.y * stride + i]);
}

__global__ void LogProbsKernel(const float* logits, int64_t stride, int n, const int32_t* targets,
                               double* logprobs, int32_t* argmax) {
  const float* row = logits + blockIdx.x * stride;
  float max = -INFINITY;
  for (int i = threadIdx.x; i < n; i += blockDim.x) max = fmaxf(max, row[i]);
  max = BlockReduce(max, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  int first = n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    if (row[i] == max) {
      first = i;
      break;
    }
  }
  first = BlockReduce(first, n, [](int a, int b) { return min(a, b); });
  if (threadIdx.x == 0) argmax[blockIdx.x] = first == n ? -1 : first;
  if (targets == nullptr) return;
  double sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += exp(static_cast<double>(row[i] - max));
  sum = BlockReduce(sum, 0.0, [](double a, double b) { return a + b; });
  const int32_t target = targets[blockIdx.x];
  if (threadIdx.x == 0) {
    logprobs[blockIdx.x] = target < 0 ? 0.0 : static_cast<double>(row[target] - max) - log(sum);
  }
}

dim3 ColumnsByRows(int64_t cols, int64_t rows) {
  return {static_cast<unsigned>((cols + kThreads - 1) / kThreads), static_cast<unsigned>(rows), 1};
}

}  // namespace

void GatherRows(const DeviceMatrix& table, const int32_t* ids, const DeviceMatrix& out,
                cudaStream_t stream) {
  WithType(table.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    GatherKernel<<<static_cast<unsigned>(out.rows), 1024, 0, stream>>>(
        static_cast<const T*>(table.data), table.stride, ids, static_cast<float*>(out.data),
        out.stride, static_cast<int>(out.cols));
  });
  Check(cudaGetLastError(), "gathering embeddings");
}

void SelectRows(const DeviceMatrix& x, const int32_t* rows, const DeviceMatrix& out,
                cudaStream_t stream) {
  assert(x.dtype == out.dtype);
  WithType(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    SelectKernel<<<static_cast<unsigned>(out.rows), 1024, 0, stream>>>(
        static_cast<const T*>(x.data), x.stride, rows, static_cast<T*>(out.data), out.stride,
        static_cast<int>(x.cols));
  });
  Check(cudaGetLastError(), "selecting rows");
}

void RmsNorm(const DeviceMatrix& x, const float* weight, float eps, const DeviceMatrix& y,
             cudaStream_t stream) {
  if (x.cols % 4 != 0 || x.stride % 4 != 0) FailWith("RMS norm on a device takes rows of fours");
  WithType(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    RmsNormKernel<<<static_cast<unsigned>(x.rows), kNormThreads, 0, stream>>>(
        static_cast<const float*>(x.data), x.stride, weight, eps, static_cast<T*>(y.data), y.stride,
        static_cast<int>(x.cols));
  });
  Check(cudaGetLastError(), "RMS norm");
}

void SwiGlu(const DeviceMatrix& gate_up, const DeviceMatrix& out, float scale,
            cudaStream_t stream) {
  assert(gate_up.cols == 2 * out.cols);
  WithType(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    SwiGluKernel<<<ColumnsByRows(out.cols, out.rows), kThreads, 0, stream>>>(
        static_cast<const float*>(gate_up.data), gate_up.stride, static_cast<T*>(out.data),
        out.stride, static_cast<int>(out.cols), scale);
  });
  Check(cudaGetLastError(), "SwiGLU");
}

void ConvertRows(const DeviceMatrix& x, const DeviceMatrix& out, cudaStream_t stream) {
  WithType(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    ConvertKernel<<<ColumnsByRows(out.cols, out.rows), kThreads, 0, stream>>>(
        static_cast<const float*>(x.data), x.stride, static_cast<T*>(out.data), out.stride,
        static_cast<int>(out.cols));
  });
  Check(cudaGetLastError(), "converting rows");
}

void LogProbs(const DeviceMatrix& logits, const int32_t* targets, double* logprobs, int32_t* argmax,
              cudaStream_t stream) {
  LogProbsKernel<<<static_cast<unsigned>(logits.rows), 1024, 0, stream>>>(
      static_cast<const float*>(logits.data), logits.stride, static_cast<int>(logits.cols), targets,
      logprobs, argmax);
  Check(cudaGetLastError(), "log-probabilities");
}

}  // namespace palu::cuda
