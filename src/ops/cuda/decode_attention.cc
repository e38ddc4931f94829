#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "ops/cuda/decode_plain.h"
#include "ops/cuda/decode_plan.h"
#include "ops/cuda/split_plan.h"
#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

// Accumulators are followed by states, at a multiple of 16 bytes.
int64_t SumsBytes(const AttentionView& layer, int64_t partials) {
  return (partials * layer.heads * layer.v.max_width * 4 + 15) / 16 * 16;
}

int64_t RoundUp(int64_t n) { return (n + 127) / 128 * 128; }

// The split's workspace: sums, states, then rows W of fast and of slow pairs.
struct SplitWorkspace {
  int64_t states = 0, fast = 0, slow = 0, bytes = 0;

  SplitWorkspace(const AttentionView& layer, const SplitPlan& plan, int64_t partials, int32_t count,
                 int64_t blocks) {
    states = SumsBytes(layer, partials);
    fast = RoundUp(states + partials * layer.heads * static_cast<int64_t>(sizeof(float2)));
    slow = RoundUp(fast + FastWorkspace(plan, count));
    bytes = slow + SlowWorkspace(layer, plan, count, blocks);
  }
};

void DecodeSplit(const AttentionView& layer, const SequencesView& sequences, const SplitPlan& plan,
                 const float* q, int64_t q_stride, void* workspace, DType out_dtype, void* out,
                 cudaStream_t stream) {
  const int32_t count = sequences.count;
  const SplitWorkspace at(layer, plan, int64_t{count} * plan.splits, count, 0);
  auto* bytes = static_cast<std::byte*>(workspace);
  DecodePlan merged;
  merged.unit_heads = plan.form.heads;
  merged.splits = plan.splits;
  merged.units = plan.units;
  const DecodePartials partials{reinterpret_cast<float*>(bytes),
                                reinterpret_cast<float2*>(bytes + at.states)};
  const SplitArguments args{
      {layer, sequences, merged, partials, q, q_stride}, plan, bytes + at.fast, bytes + at.slow};
  LaunchSplitAbsorb(args, stream);
  LaunchSplitDecode(args, stream);
  LaunchDecodeMerge(args.decode, out_dtype, out, stream);
}

constexpr int32_t kMaxMergedWidth = 1024;  // of a page of values: four columns per thread

bool SupportsProjection(const AttentionView& layer, const ProjectionView& p) {
  const bool tiers = p.bits == kTiers;
  const bool codes = tiers || p.bits == 2 || p.bits == 3 || p.bits == 4 || p.bits == 8;
  if (codes ? !p.latent || p.run % 8 != 0
            : p.bits != 16 || (p.dtype != DType::kF16 && p.dtype != DType::kBF16)) {
    return false;
  }
  if (p.latent)
    return p.up_dtype == OperandType(p) && p.width_divisor % (codes && !tiers ? 32 : 16) == 0;
  return p.heads_per_page == 1 && p.max_width == layer.head_dim;
}

}  // namespace

bool SupportsDecode(const AttentionView& layer) {
  if (layer.head_dim != 64 && layer.head_dim != 128) return false;
  if (layer.kv_heads < 1 || layer.heads % layer.kv_heads != 0 || layer.heads_per_kv() > 8) {
    return false;
  }
  const auto [fewer, unit] = std::minmax(layer.k.heads_per_page, layer.v.heads_per_page);
  if (fewer < 1 || unit % fewer != 0 || layer.kv_heads % unit != 0) return false;
  if (!SupportsProjection(layer, layer.k) || !SupportsProjection(layer, layer.v)) return false;
  if (IsPlain(layer)) return SupportsPlainDecode(layer);
  if (layer.v.max_width > kMaxMergedWidth) return false;
  return PlanDecode(layer, 1).tile_tokens > 0;
}

bool DecodesSplit(const AttentionView& layer) { return PlanSplit(layer, 1).chunks > 0; }

size_t DecodeWorkspaceBytes(const AttentionView& layer, int32_t count, int64_t blocks) {
  if (IsPlain(layer)) return PlainDecodeWorkspaceBytes(layer, count);
  if (const SplitPlan plan = PlanSplit(layer, count); plan.chunks > 0) {
    // Fewer sequences may have more splits, but never more than fill the device twice.
    const int64_t partials =
        layer.batch_invariant
            ? int64_t{count} * plan.splits
            : std::max<int64_t>(count, 2 * int64_t{plan.multiprocessors} / plan.units);
    return static_cast<size_t>(SplitWorkspace(layer, plan, partials, count, blocks).bytes);
  }
  const int64_t partials = MaxPartials(layer, count);
  return static_cast<size_t>(SumsBytes(layer, partials) +
                             partials * layer.heads * static_cast<int64_t>(sizeof(float2)));
}

void DecodeAttention(const AttentionView& layer, const SequencesView& sequences, const float* q,
                     int64_t q_stride, void* workspace, DType out_dtype, void* out,
                     cudaStream_t stream) {
  if (sequences.count == 0) return;
  if (IsPlain(layer)) {
    return PlainDecode(layer, sequences, q, q_stride, workspace, out_dtype, out, stream);
  }
  if (const SplitPlan split = PlanSplit(layer, sequences.count); split.chunks > 0) {
    return DecodeSplit(layer, sequences, split, q, q_stride, workspace, out_dtype, out, stream);
  }
  DecodeArguments args{layer, sequences, PlanDecode(layer, sequences.count), {}, q, q_stride};
  if (args.plan.tile_tokens == 0) FailWith("decode attention: pages too wide for shared memory");
  const int64_t partials = int64_t{sequences.count} * args.plan.splits;
  auto* bytes = static_cast<std::byte*>(workspace);
  args.partials.sums = reinterpret_cast<float*>(bytes);
  args.partials.states = reinterpret_cast<float2*>(bytes + SumsBytes(layer, partials));

  const bool bf16 = OperandType(layer.k) == DType::kBF16, wide = layer.head_dim == 128;
  const auto launch =
      bf16 ? (wide ? LaunchLatentDecode<__nv_bfloat16, 128> : LaunchLatentDecode<__nv_bfloat16, 64>)
           : (wide ? LaunchLatentDecode<__half, 128> : LaunchLatentDecode<__half, 64>);
  launch(args, stream);
  LaunchDecodeMerge(args, out_dtype, out, stream);
}

}  // namespace palu::cuda
