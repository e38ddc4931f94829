#include "model/grad/cuda/attention.h"

#include <algorithm>
#include <cmath>

#include "model/grad/cuda/kernels.h"

namespace palu::cuda {
namespace {

constexpr int64_t kMaxQueryBlock = 512;
constexpr int64_t kMaxScores = int64_t{1} << 26;  // elements of all KV heads' scores

}  // namespace

WindowAttention::WindowAttention(const ModelConfig& config, Blas& blas, cudaStream_t stream)
    : heads_(config.num_heads),
      kv_heads_(config.num_kv_heads),
      d_(config.head_dim),
      members_(config.heads_per_kv()),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)))),
      blas_(blas),
      stream_(stream) {}

int64_t WindowAttention::QueryBlock(int64_t n) const {
  return std::clamp<int64_t>(kMaxScores / (kv_heads_ * n), 1, std::min(kMaxQueryBlock, n));
}

WindowAttention::Pass WindowAttention::MakePass(MatrixView<const float> qkv, int64_t member) const {
  Pass pass;
  pass.q = qkv.ColRange(member * d_, d_);
  pass.k = qkv.ColRange(heads_ * d_, d_);
  pass.v = qkv.ColRange((heads_ + kv_heads_) * d_, d_);
  return pass;
}

void WindowAttention::Probabilities(const Pass& pass, int64_t begin, int64_t count) {
  const int64_t keys = begin + count;
  p_.Resize(kv_heads_ * count * keys);
  blas_.Gemm(Trans::kNo, Trans::kYes, scale_, pass.q.RowRange(begin, count),
             pass.k.RowRange(0, keys), 0, {p_.data(), count, keys},
             {kv_heads_, members_ * d_, d_, count * keys});
  CausalSoftmax(p_.data(), kv_heads_, count, keys, begin, stream_);
}

void WindowAttention::Forward(MatrixView<const float> qkv, MatrixView<float> out) {
  const int64_t n = qkv.rows, block = QueryBlock(n);
  p_.Resize(kv_heads_ * block * n);
  for (int64_t member = 0; member < members_; ++member) {
    const Pass pass = MakePass(qkv, member);
    const MatrixView<float> o = out.ColRange(member * d_, d_);
    for (int64_t begin = 0; begin < n; begin += block) {
      const int64_t count = std::min(block, n - begin), keys = begin + count;
      Probabilities(pass, begin, count);
      blas_.Gemm(Trans::kNo, Trans::kNo, 1, MatrixView<const float>(p_.data(), count, keys),
                 pass.v.RowRange(0, keys), 0, o.RowRange(begin, count),
                 {kv_heads_, count * keys, d_, members_ * d_});
    }
  }
}

// As on the CPU: dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = dS K, dK = dS^T Q. The
// last block of the first pass sees every key and overwrites dK and dV; all others add.
void WindowAttention::Backward(MatrixView<const float> qkv, MatrixView<const float> dout,
                               MatrixView<float> dqkv, int64_t recent, float* near) {
  const int64_t n = qkv.rows, block = QueryBlock(n);
  p_.Resize(kv_heads_ * block * n);
  dp_.Resize(kv_heads_ * block * n);
  const int64_t query_step = members_ * d_;
  const MatrixView<float> dk = dqkv.ColRange(heads_ * d_, d_);
  const MatrixView<float> dv = dqkv.ColRange((heads_ + kv_heads_) * d_, d_);
  if (recent > 0) {
    const auto bytes = static_cast<size_t>(n * 2 * kv_heads_ * d_) * sizeof(float);
    Check(cudaMemsetAsync(near, 0, bytes, stream_), "clearing device memory");
  }
  for (int64_t member = 0; member < members_; ++member) {
    const Pass pass = MakePass(qkv, member);
    const MatrixView<float> dq = dqkv.ColRange(member * d_, d_);
    for (int64_t i = (n - 1) / block; i >= 0; --i) {
      const int64_t begin = i * block, count = std::min(block, n - begin), keys = begin + count;
      const int64_t step = count * keys;
      const float beta = member == 0 && keys == n ? 0 : 1;
      const auto q = pass.q.RowRange(begin, count);
      const auto d_out = dout.ColRange(member * d_, d_).RowRange(begin, count);
      Probabilities(pass, begin, count);
      const MatrixView<const float> p(p_.data(), count, keys), ds(dp_.data(), count, keys);
      blas_.Gemm(Trans::kYes, Trans::kNo, 1, p, d_out, beta, dv.RowRange(0, keys),
                 {kv_heads_, step, query_step, d_});
      blas_.Gemm(Trans::kNo, Trans::kYes, 1, d_out, pass.v.RowRange(0, keys), 0,
                 {dp_.data(), count, keys}, {kv_heads_, query_step, d_, step});
      SoftmaxBackward(p_.data(), dp_.data(), kv_heads_ * count, keys, stream_);
      blas_.Gemm(Trans::kNo, Trans::kNo, scale_, ds, pass.k.RowRange(0, keys), 0,
                 dq.RowRange(begin, count), {kv_heads_, step, d_, query_step});
      blas_.Gemm(Trans::kYes, Trans::kNo, scale_, ds, q, beta, dk.RowRange(0, keys),
                 {kv_heads_, step, query_step, d_});
      if (recent == 0) continue;
      NearQueries queries{static_cast<int32_t>(kv_heads_), static_cast<int32_t>(d_)};
      queries.first = begin;
      queries.rows = count;
      queries.recent = recent;
      queries.p = p.data;
      queries.ds = ds.data;
      queries.scale = scale_;
      queries.q = q.data;
      queries.q_stride = q.stride;
      queries.dout = d_out.data;
      queries.dout_stride = d_out.stride;
      queries.step = query_step;
      AddNear(queries, near, stream_);
    }
  }
}

}  // namespace palu::cuda
