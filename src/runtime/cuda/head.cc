#include "runtime/cuda/head.h"

#include <algorithm>
#include <cassert>

#include "base/error.h"
#include "ops/cuda/divergence.h"
#include "ops/cuda/row_ops.h"

namespace palu::cuda {
namespace {

constexpr int64_t kLogitBytes = int64_t{256} << 20;  // of one slab of logits
constexpr int64_t kMaxRows = 4096;                   // of one slab

template <class T>
void Grow(DeviceBuffer<T>& buffer, int64_t size) {
  buffer.Resize(std::max(buffer.size(), size));
}

}  // namespace

Head::Head(const ModelConfig& config, const DeviceWeights& weights, Products& products,
           cudaStream_t stream)
    : config_(config),
      weights_(weights),
      products_(products),
      stream_(stream),
      results_(1 + kMaxRows),  // never moves: recorded graphs know the fault's address
      host_results_(1 + kMaxRows) {
  Check(cudaMemsetAsync(fault(), 0, sizeof(int32_t), stream_), "clearing the fault");
}

int64_t Head::SlabRows() const {
  return std::clamp<int64_t>(kLogitBytes / (config_.vocab_size * 4), 1, kMaxRows);
}

DeviceMatrix Head::Multiply(const DeviceMatrix& residual, std::span<const int64_t> rows) {
  const auto count = std::ssize(rows);
  const std::vector<int32_t> selected(rows.begin(), rows.end());
  Grow(rows_, count);
  Grow(selected_, count * config_.hidden_size);
  Grow(logits_, count * config_.vocab_size);
  products_.Reserve(scratch_, count);
  rows_.Upload(selected.data(), count, stream_);
  const DeviceMatrix hidden = MakeMatrix(selected_.data(), DType::kF32, count, config_.hidden_size);
  const DeviceMatrix logits = MakeMatrix(logits_.data(), DType::kF32, count, config_.vocab_size);
  SelectRows(residual, rows_.data(), hidden, stream_);
  products_.Normed(hidden,
                   {weights_.final_norm.AsFloat(), static_cast<float>(config_.rms_norm_eps)},
                   weights_.head(), {}, scratch_, logits, stream_);
  return logits;
}

void Head::Fetch(int64_t count) {
  results_.Download(host_results_.data(), 1 + count, stream_);
  Check(cudaStreamSynchronize(stream_), "running on the device");
  const int32_t layer = host_results_[0] - 1;
  if (layer < 0) return;
  Check(cudaMemsetAsync(fault(), 0, sizeof(int32_t), stream_), "clearing the fault");
  Fail("layer {}: a latent is not finite; the model's activations overflow", layer);
}

void Head::Logits(const DeviceMatrix& residual, std::span<const int64_t> rows,
                  MatrixView<float> logits) {
  assert(logits.rows == std::ssize(rows));
  const auto count = std::ssize(rows);
  host_logits_.Resize(count * config_.vocab_size);
  Multiply(residual, rows);
  logits_.Download(host_logits_.data(), count * config_.vocab_size, stream_);
  Fetch(0);
  for (int64_t r = 0; r < count; ++r) {
    std::copy_n(host_logits_.data() + r * config_.vocab_size, config_.vocab_size, logits.Row(r));
  }
}

void Head::LogProbs(const DeviceMatrix& residual, std::span<const int64_t> rows,
                    std::span<const TokenId> targets, std::span<double> logprobs,
                    std::span<TokenId> argmax) {
  assert(targets.size() == rows.size() && logprobs.size() == rows.size());
  if (rows.empty()) return Fetch(0);
  const int64_t slab = SlabRows();
  Grow(targets_, slab);
  Grow(logprobs_, slab);
  host_logprobs_.Resize(slab);
  for (size_t begin = 0; begin < rows.size(); begin += static_cast<size_t>(slab)) {
    const size_t count = std::min(static_cast<size_t>(slab), rows.size() - begin);
    const auto n = static_cast<int64_t>(count);
    targets_.Upload(targets.data() + begin, n, stream_);
    const DeviceMatrix logits = Multiply(residual, rows.subspan(begin, count));
    cuda::LogProbs(logits, targets_.data(), logprobs_.data(), results_.data() + 1, stream_);
    logprobs_.Download(host_logprobs_.data(), n, stream_);
    Fetch(n);
    std::copy_n(host_logprobs_.data(), n, logprobs.data() + begin);
    std::copy_n(host_results_.data() + 1, n, argmax.data() + begin);
  }
}

void Head::Compare(const DeviceMatrix& residual, Head& other, const DeviceMatrix& other_residual,
                   std::span<const int64_t> rows, std::span<const TokenId> targets,
                   std::span<RowDivergence> results) {
  assert(targets.size() == rows.size() && results.size() == rows.size());
  const int64_t slab = SlabRows();
  Grow(targets_, slab);
  Grow(divergences_, slab);
  host_divergences_.Resize(slab);
  for (size_t begin = 0; begin < rows.size(); begin += static_cast<size_t>(slab)) {
    const size_t count = std::min(static_cast<size_t>(slab), rows.size() - begin);
    const auto n = static_cast<int64_t>(count);
    targets_.Upload(targets.data() + begin, n, stream_);
    const DeviceMatrix q = other.Multiply(other_residual, rows.subspan(begin, count));
    other.Fetch(0);
    const DeviceMatrix p = Multiply(residual, rows.subspan(begin, count));
    CompareRows(p, q, targets_.data(), divergences_.data(), stream_);
    divergences_.Download(host_divergences_.data(), n, stream_);
    Fetch(0);
    std::copy_n(host_divergences_.data(), n, results.data() + begin);
  }
}

void Head::Sample(const DeviceMatrix& residual, std::span<const int64_t> rows,
                  std::span<const Draw> draws, std::span<TokenId> tokens) {
  assert(draws.size() == rows.size() && tokens.size() == rows.size());
  if (rows.empty()) return Fetch(0);
  const int64_t slab = SlabRows();
  for (size_t begin = 0; begin < rows.size(); begin += static_cast<size_t>(slab)) {
    const size_t count = std::min(static_cast<size_t>(slab), rows.size() - begin);
    const auto n = static_cast<int64_t>(count);
    std::vector<DeviceDraw> slab_draws;
    for (const Draw& draw : draws.subspan(begin, count)) {
      slab_draws.push_back({draw.params.temperature, draw.params.top_p, draw.params.min_p,
                            draw.uniform, draw.params.top_k});
    }
    Grow(draws_, n);
    draws_.Upload(slab_draws.data(), n, stream_);
    const DeviceMatrix logits = Multiply(residual, rows.subspan(begin, count));
    SampleTokens(logits, draws_.data(), results_.data() + 1, stream_);
    Fetch(n);
    std::copy_n(host_results_.data() + 1, n, tokens.data() + begin);
  }
}

}  // namespace palu::cuda
