#include "ops/cuda/divergence.h"

#include <cassert>

#include "ops/cuda/reduce.cuh"
#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

constexpr int kThreads = 1024;

struct Top {
  float logit = -INFINITY;
  int token = -1;  // of a row of -inf

  __device__ void Take(float other, int other_token) {
    if (other > logit || (other == logit && other_token < token)) {
      logit = other;
      token = other_token;
    }
  }
};

// The first of the row's largest logits, by all threads of the block.
__device__ Top FindTop(const float* row, int n) {
  Top own;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) own.Take(row[i], i);
  const float top = BlockReduce(own.logit, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  const int first = own.logit == top && own.token >= 0 ? own.token : n;
  const int token = BlockReduce(first, n, [](int a, int b) { return min(a, b); });
  return {top, token == n ? -1 : token};
}

__device__ double BlockSum(double x) {
  return BlockReduce(x, 0.0, [](double a, double b) { return a + b; });
}

// One block of threads per row.
__global__ void __launch_bounds__(kThreads)
    CompareKernel(const float* p, int64_t p_stride, const float* q, int64_t q_stride, int n,
                  const int32_t* targets, RowDivergence* results) {
  p += blockIdx.x * p_stride;
  q += blockIdx.x * q_stride;
  const Top p_top = FindTop(p, n), q_top = FindTop(q, n);
  const double p_max = p_top.logit, q_max = q_top.logit;
  double p_sum = 0, q_sum = 0, weighted = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
    const double x = p[i] - p_max, y = q[i] - q_max;
    const double e = exp(x);
    p_sum += e;
    q_sum += exp(y);
    weighted += e * (x - y);
  }
  p_sum = BlockSum(p_sum);
  q_sum = BlockSum(q_sum);
  weighted = BlockSum(weighted);
  if (threadIdx.x != 0) return;
  const double kl = weighted / p_sum - log(p_sum) + log(q_sum);
  const int target = targets[blockIdx.x];
  results[blockIdx.x] = {kl < 0 ? 0 : kl, p[target] - p_max - log(p_sum),
                         q[target] - q_max - log(q_sum), p_top.token, q_top.token};
}

}  // namespace

void CompareRows(const DeviceMatrix& p, const DeviceMatrix& q, const int32_t* targets,
                 RowDivergence* results, cudaStream_t stream) {
  assert(p.rows == q.rows && p.cols == q.cols);
  CompareKernel<<<static_cast<unsigned>(p.rows), kThreads, 0, stream>>>(
      static_cast<const float*>(p.data), p.stride, static_cast<const float*>(q.data), q.stride,
      static_cast<int>(p.cols), targets, results);
  Check(cudaGetLastError(), "comparing rows of logits");
}

}  // namespace palu::cuda
