#include "runtime/cuda/attention_view.h"

#include <cmath>
#include <numbers>
#include <optional>
#include <span>

#include "ops/cuda/split_plan.h"
#include "ops/frequency_split.h"
#include "ops/rope.h"

namespace palu::cuda {

namespace {

// Tokens of a block: a multiple of two tiles, so that both groups of consumers meet every block.
constexpr int64_t kMaxSplitBlock = 2048, kSplitBlockStep = 128;

// The longest blocks for which the kernel's shape is close enough: the longer, the fewer rows.
std::optional<FrequencySplit> KernelSplit(std::span<const double> frequencies,
                                          const SplitForm& form, double tolerance) {
  if (form.pairs == 0 || std::ssize(frequencies) <= form.pairs) return std::nullopt;
  for (int64_t tokens = kMaxSplitBlock; tokens > 0; tokens -= kSplitBlockStep) {
    FrequencySplit split = MakeFrequencySplit(frequencies, tokens, form.pairs, form.terms);
    if (split.max_error <= tolerance) return split;
  }
  return std::nullopt;
}

}  // namespace

RopeTables::RopeTables(const RopeConfig& rope, int64_t head_dim, int64_t queries, double tolerance,
                       cudaStream_t stream) {
  const std::vector<double> frequencies = InverseFrequencies(rope, head_dim);
  std::vector<double> turns;
  std::vector<float> rounded;
  for (const double f : frequencies) {
    turns.push_back(f / (2 * std::numbers::pi));
    rounded.push_back(static_cast<float>(f));
  }
  std::vector<float2> tile;
  for (int64_t t = 0; t < kBlockTokens; ++t) {
    for (const double f : frequencies) {
      const double angle = static_cast<double>(t) * f;
      tile.push_back({static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
    }
  }
  const auto upload = [&](auto& buffer, const auto& values) {
    buffer.Resize(std::ssize(values));
    buffer.Upload(values.data(), std::ssize(values), stream);
  };
  upload(turns_, turns);
  upload(inverse_frequencies_, rounded);
  upload(tile_, tile);
  const SplitForm form = SplitFormOf(static_cast<int32_t>(queries));
  if (const std::optional<FrequencySplit> split = KernelSplit(frequencies, form, tolerance)) {
    const double down = form.grouped ? kWaveDown : 1;
    std::vector<float> basis;  // [tokens, terms]
    for (int64_t t = 0; t < split->block_tokens; ++t) {
      for (int64_t j = 0; j < split->terms; ++j) {
        basis.push_back(static_cast<float>(down * split->Wave(j)[t]));
      }
    }
    std::vector<float2> coefficients;
    for (const std::complex<double>& c : split->coefficients) {
      coefficients.push_back({static_cast<float>(c.real()), static_cast<float>(c.imag())});
    }
    upload(basis_, basis);
    upload(coefficients_, coefficients);
    split_ = {basis_.data(), coefficients_.data(), static_cast<int32_t>(split->block_tokens),
              static_cast<int32_t>(split->exact_pairs), static_cast<int32_t>(split->terms)};
  }
  Check(cudaStreamSynchronize(stream), "running on the device");
}

AttentionView MakeAttentionView(const ModelConfig& config, const DeviceLayer& layer,
                                const RopeView& rope, const SplitView& split,
                                bool batch_invariant) {
  AttentionView view;
  view.heads = static_cast<int32_t>(config.num_heads);
  view.kv_heads = static_cast<int32_t>(config.num_kv_heads);
  view.head_dim = static_cast<int32_t>(config.head_dim);
  view.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  view.rope = rope;
  view.split = split;
  view.k = layer.k.view;
  view.v = layer.v.view;
  view.batch_invariant = batch_invariant;
  view.shared_latents = layer.shared_latents;
  return view;
}

}  // namespace palu::cuda
