#include "ops/cuda/attention.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <type_traits>

#include "ops/cuda/prefill_attention.cuh"
#include "ops/cuda/vector.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    NormalizeKernel(const float* acc, const float* sum, int head_dim, int64_t groups, T* out) {
  const int64_t group = int64_t{blockIdx.x} * kThreads + threadIdx.x;  // of four elements
  if (group >= groups) return;
  const float total = sum[group / (head_dim / 4)];
  float x[4];
  Load(acc + group * 4, x);
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = total == 0 ? 0.0f : x[i] / total;
  Store(x, out + group * 4);
}

}  // namespace

void PrefillAttention(const AttentionView& layer, const PrefillChunk& chunk, const DenseKeys& keys,
                      const void* q, bool first, SoftmaxStates states, float* acc,
                      cudaStream_t stream) {
  const int32_t d = layer.head_dim;
  assert(d % 8 == 0 && d <= 256 && layer.heads % layer.kv_heads == 0);
  assert(chunk.count + keys.tokens < std::numeric_limits<int32_t>::max() / 2);
  if (chunk.count == 0) return;
  PrefillArgs args{};
  args.q = q;
  args.k = keys.k;
  args.v = keys.v;
  args.max = states.max;
  args.sum = states.sum;
  args.acc = acc;
  args.heads = layer.heads;
  args.kv_heads = layer.kv_heads;
  args.head_dim = d;
  args.scale_log2 = layer.scale * 1.44269504f;
  args.count = static_cast<int32_t>(chunk.count);
  args.tokens = static_cast<int32_t>(keys.tokens);
  // Beyond these limits rows see nothing or everything anyway.
  const auto within = [&](int64_t token) {
    return static_cast<int32_t>(std::clamp(token - keys.first_key, -chunk.count, keys.tokens));
  };
  const KeyBand& band = chunk.band;
  args.first_begin = within(chunk.start + 1 - band.last);
  args.least_begin = within(band.begin);
  args.first_limit = within(chunk.start - band.skipped);
  args.least_limit = within(band.seen - 1);
  args.banded = band.last <= chunk.start + chunk.count || band.begin > 0 || band.skipped > 0;
  args.first = first;
  WithType(keys.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if constexpr (!std::is_same_v<T, float>) {
      if (d == 64) return PrefillOnTensorCores<T, 64>(args, stream);
      if (d == 128) return PrefillOnTensorCores<T, 128>(args, stream);
    }
    PrefillPlain<T>(args, stream);
  });
}

void FinishPrefill(const AttentionView& layer, int64_t count, SoftmaxStates states,
                   const float* acc, DType out_dtype, void* out, cudaStream_t stream) {
  const int64_t groups = count * layer.heads * layer.head_dim / 4;
  if (groups == 0) return;
  const auto blocks = static_cast<unsigned>((groups + kThreads - 1) / kThreads);
  WithType(out_dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    NormalizeKernel<<<blocks, kThreads, 0, stream>>>(acc, states.sum, layer.head_dim, groups,
                                                     static_cast<T*>(out));
  });
  Check(cudaGetLastError(), "launching the end of prefill attention");
}

}  // namespace palu::cuda
