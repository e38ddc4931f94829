#include <algorithm>

#include "model/grad/cuda/kernels.h"
#include "ops/cuda/element.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;

// One thread per element; grids of one dimension hold 2^31 blocks.
unsigned Blocks(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

__device__ int64_t Index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class From, class To>
__global__ void WidenKernel(const From* from, int64_t n, To* to) {
  const int64_t i = Index();
  if (i < n) to[i] = static_cast<To>(AsFloat(from[i]));
}

__global__ void WidenRowsKernel(MatrixView<const float> from, double* to) {
  const int64_t i = Index();
  if (i < from.rows * from.cols) {
    to[i] = static_cast<double>(from.data[i / from.cols * from.stride + i % from.cols]);
  }
}

__global__ void TakeFromKernel(MatrixView<const float> whole, float* part) {
  const int64_t i = Index();
  if (i < whole.rows * whole.cols) {
    part[i] = whole.data[i / whole.cols * whole.stride + i % whole.cols] - part[i];
  }
}

// A thread per column.
__global__ void AddColumnsKernel(const double* x, int64_t rows, int64_t cols, double* sum) {
  const int64_t c = Index();
  if (c >= cols) return;
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) total += x[r * cols + c];
  sum[c] += total;
}

__global__ void AddColumnSquaresKernel(MatrixView<const float> x, double* sum) {
  const int64_t c = Index();
  if (c >= x.cols) return;
  double total = 0;
  for (int64_t r = 0; r < x.rows; ++r) {
    const double value = x.data[r * x.stride + c];
    total += value * value;
  }
  sum[c] += total;
}

// grid: (keys from `first_key` on, KV heads); a thread has some columns of the head.
__global__ void AddNearKernel(NearQueries a, int64_t first_key, float* near) {
  const int64_t key = first_key + blockIdx.x, keys = a.first + a.rows;
  const int head = static_cast<int>(blockIdx.y), d = a.head_dim;
  const int64_t begin = key > a.first ? key : a.first;
  const int64_t end = key + a.recent < keys ? key + a.recent : keys;
  const int64_t width = static_cast<int64_t>(a.kv_heads) * d;
  const float* q = a.q + head * a.step;
  const float* dout = a.dout + head * a.step;
  for (int c = static_cast<int>(threadIdx.x); c < d; c += static_cast<int>(blockDim.x)) {
    float dk = 0, dv = 0;
    for (int64_t query = begin; query < end; ++query) {
      const int64_t row = query - a.first, at = (head * a.rows + row) * keys + key;
      dv = fmaf(a.p[at], dout[row * a.dout_stride + c], dv);
      dk = fmaf(a.scale * a.ds[at], q[row * a.q_stride + c], dk);
    }
    float* out = near + key * 2 * width + head * d + c;
    out[0] += dk;
    out[width] += dv;
  }
}

__global__ void AddBiasKernel(const float* bias, Rows x) {
  const int64_t i = Index(), token = i / x.width, c = i % x.width;
  if (token < x.count) x.data[token * x.stride + c] += bias[c];
}

// One thread per pair of coordinates.
__global__ void RotateKernel(const float* cos, const float* sin, float sign, Rows x) {
  const int half = x.width / 2;
  const int64_t i = Index(), row = i / half, token = row / x.per_token;
  const int pair = static_cast<int>(i % half);
  if (token >= x.count) return;
  float* low = x.data + token * x.stride + row % x.per_token * x.width + pair;
  const float a = low[0], b = low[half];
  const float c = cos[token * half + pair], s = sign * sin[token * half + pair];
  low[0] = a * c - b * s;
  low[half] = b * c + a * s;
}

__global__ void GatedKernel(const float* gate_up, int64_t n, int64_t inter, float* out) {
  const int64_t i = Index(), row = i / inter;
  if (row >= n) return;
  const float* g = gate_up + i + row * inter;  // [row, 2 inter]
  out[i] = g[0] * Sigmoid(g[0]) * g[inter];
}

// silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g).
__global__ void GatedBackwardKernel(const float* dout, int64_t n, int64_t inter, float* gate_up) {
  const int64_t i = Index(), row = i / inter;
  if (row >= n) return;
  float* g = gate_up + i + row * inter;
  const float x = g[0], y = g[inter], s = Sigmoid(x), d = dout[i];
  g[0] = d * y * s * (1.0f + x * (1.0f - s));
  g[inter] = d * x * s;
}

__global__ void AddSquaresKernel(const float* x, int64_t n, double* sum) {
  const int64_t i = Index();
  if (i < n) sum[i] += static_cast<double>(x[i]) * x[i];
}

}  // namespace

void Widen(const void* from, DType dtype, int64_t n, float* to, cudaStream_t stream) {
  WithType(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    WidenKernel<<<Blocks(n), kThreads, 0, stream>>>(static_cast<const T*>(from), n, to);
  });
  Check(cudaGetLastError(), "converting weights");
}

void Widen(MatrixView<const float> from, double* to, cudaStream_t stream) {
  WidenRowsKernel<<<Blocks(from.rows * from.cols), kThreads, 0, stream>>>(from, to);
  Check(cudaGetLastError(), "converting to float64");
}

void AddBias(const float* bias, Rows x, cudaStream_t stream) {
  AddBiasKernel<<<Blocks(x.count * x.width), kThreads, 0, stream>>>(bias, x);
  Check(cudaGetLastError(), "adding a bias");
}

void Rotate(const float* cos, const float* sin, bool inverse, Rows x, cudaStream_t stream) {
  RotateKernel<<<Blocks(x.count * x.per_token * (x.width / 2)), kThreads, 0, stream>>>(
      cos, sin, inverse ? -1.0f : 1.0f, x);
  Check(cudaGetLastError(), "RoPE");
}

void GatedRows(const float* gate_up, int64_t n, int64_t inter, float* out, cudaStream_t stream) {
  GatedKernel<<<Blocks(n * inter), kThreads, 0, stream>>>(gate_up, n, inter, out);
  Check(cudaGetLastError(), "SwiGLU");
}

void GatedRowsBackward(const float* dout, int64_t n, int64_t inter, float* gate_up,
                       cudaStream_t stream) {
  GatedBackwardKernel<<<Blocks(n * inter), kThreads, 0, stream>>>(dout, n, inter, gate_up);
  Check(cudaGetLastError(), "the gradient of SwiGLU");
}

void AddSquares(const float* x, int64_t n, double* sum, cudaStream_t stream) {
  AddSquaresKernel<<<Blocks(n), kThreads, 0, stream>>>(x, n, sum);
  Check(cudaGetLastError(), "adding squares");
}

void AddColumns(const double* x, int64_t rows, int64_t cols, double* sum, cudaStream_t stream) {
  AddColumnsKernel<<<Blocks(cols), kThreads, 0, stream>>>(x, rows, cols, sum);
  Check(cudaGetLastError(), "adding columns");
}

void AddColumnSquares(MatrixView<const float> x, double* sum, cudaStream_t stream) {
  AddColumnSquaresKernel<<<Blocks(x.cols), kThreads, 0, stream>>>(x, sum);
  Check(cudaGetLastError(), "adding columns' squares");
}

void AddNear(const NearQueries& queries, float* near, cudaStream_t stream) {
  const int64_t first_key = std::max<int64_t>(queries.first + 1 - queries.recent, 0);
  const dim3 grid(static_cast<unsigned>(queries.first + queries.rows - first_key),
                  static_cast<unsigned>(queries.kv_heads));
  AddNearKernel<<<grid, 128, 0, stream>>>(queries, first_key, near);
  Check(cudaGetLastError(), "the gradient from near queries");
}

void TakeFrom(MatrixView<const float> whole, float* part, cudaStream_t stream) {
  TakeFromKernel<<<Blocks(whole.rows * whole.cols), kThreads, 0, stream>>>(whole, part);
  Check(cudaGetLastError(), "subtracting on the device");
}

}  // namespace palu::cuda
