#include "ops/cuda/split_plan.h"

#include <algorithm>
#include <vector>

#include "ops/convert.h"
#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

constexpr int32_t kMaxStages = 6;
constexpr int32_t kMinStages = kKeyGroups;  // each group has a tile

int Attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  Check(cudaGetDevice(&device), "asking for the device");
  Check(cudaDeviceGetAttribute(&value, attribute, device), "reading device properties");
  return value;
}

// Latents that a page's width must be a multiple of: whole 16-byte pieces of a row's planes.
int32_t WidthMultiple(int bits) {
  switch (bits) {
    case 2:
      return 64;
    case 3:
      return 128;
    case 4:
      return 32;
    default:
      return 16;
  }
}

bool SupportsPages(const ProjectionView& p) {
  if (!p.latent || p.max_width > kMaxSplitWidth) return false;
  if (p.bits == kTiers) return false;  // products take one scale for a token's whole latent
  if (p.bits == 16 && p.dtype != DType::kF16) return false;
  if (p.up_dtype != DType::kF16 || p.width_divisor % WidthMultiple(p.bits) != 0) return false;
  if (p.heads_per_page != kSplitPageHeads) return false;
  return p.bits == 16 || p.run == 0 || p.run >= p.max_width;
}

bool SupportsKeys(const ProjectionView& k, const SplitForm& form) {
  if (form.heads == 0 || k.norm != nullptr) return false;
  if (k.bias != nullptr && !form.grouped) return false;
  return SupportsPages(k) && (!form.grouped || IntegerRows(k.bits));
}

bool SupportsLayer(const AttentionView& layer, const SplitForm& form) {
  const SplitView& split = layer.split;
  if (split.exact_pairs != form.pairs || split.terms != form.terms) return false;
  if (split.block_tokens % 128 != 0 || layer.rope.float32_angles) return false;
  return SupportsKeys(layer.k, form) && SupportsPages(layer.v) && layer.k.bits == layer.v.bits;
}

// The kernel's instances, in chunks of a row of keys: widths of 128, 256, 384 and 512 where a row
// of W of that width fits.
int32_t InstanceChunks(const ProjectionView& k) {
  const int32_t step = std::max(Chunks(k.bits, 128), 1), most = Chunks(k.bits, 512);
  const int32_t chunks = (Chunks(k.bits, k.max_width) + step - 1) / step * step;
  if (chunks > most) return 0;
  // Elements beyond a row may be no numbers; codes always are.
  if (k.bits == 16 && (k.width_divisor != k.max_width || k.max_width % 128 != 0)) return 0;
  return chunks;
}

int32_t RoundUp(int32_t n, int32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

SplitShared LayOut(const AttentionView& layer, const SplitPlan& plan) {
  SplitShared s;
  int32_t end = 0;
  const auto take = [&](int32_t bytes) {
    const int32_t at = end;
    end += RoundUp(bytes, 128);
    return at;
  };
  s.fast = take(plan.fast_bytes());
  s.slow = take(2 * plan.slow_bytes());
  s.weights = take(kKeyGroups * 2 * WeightBytes(plan.form) + plan.form.pairs * 8);
  s.scratch = take(4096);
  constexpr int32_t kPadding = kTileTokens / kGroupRows * kGroupPadding;
  s.phi = RoundUp(PackedBytes(layer.k, layer.k.max_width), 128);
  s.key_stage = s.phi + 64 * plan.form.terms * 4;
  s.value_stage = RoundUp(PackedBytes(layer.v, layer.v.max_width) + kPadding, 128);
  s.keys = take(plan.stages * s.key_stage);
  s.values = take(plan.stages * s.value_stage);
  s.bytes = end;
  return s;
}

// What the sums of values take at the end, in place of the pages.
int32_t EndBytes(const AttentionView& layer, const SplitForm& form) {
  return form.slots() * layer.v.max_width * 4;
}

}  // namespace

SplitForm SplitFormOf(int32_t queries) {
  if (queries == 1) return Absorbed::kForm;
  if (queries <= 4) return Grouped<4>::kForm;
  if (queries <= 8) return Grouped<2>::kForm;
  return {};
}

int32_t SplitRowSlots(const ProjectionView& keys) {
  return InstanceChunks(keys) * ChunkSteps(keys.bits) * 32 / RowElementBytes(keys.bits);
}

SplitUp LayOutSplitUp(const ProjectionView& keys, int32_t head_dim, const SplitForm& form) {
  SplitUp up;
  const int32_t slots = SplitRowSlots(keys);
  if (!SupportsKeys(keys, form) || slots == 0 || (head_dim != 64 && head_dim != 128)) return up;
  int32_t end = 0;
  const auto take = [&end](int32_t bytes) {
    const int32_t at = end;
    end += RoundUp(bytes, 128);
    return at;
  };
  up.slow = take(kSplitPageHeads * SlowDepth(head_dim, form.pairs) * slots * 2);
  up.bounds = take(kSplitPageHeads * head_dim / 2 * 4);
  if (form.grouped) {
    up.scales = take(kSplitPageHeads * form.pairs * 4);
    up.fast = take(kSplitPageHeads * 2 * form.pairs * slots);
  }
  up.bytes = end;
  return up;
}

bool HasRotaryBasis(const ProjectionView& keys, const PageView& page, const TensorView& up,
                    int32_t head_dim, int32_t queries) {
  const SplitForm form = SplitFormOf(queries);
  if (!SupportsKeys(keys, form) || 2 * form.pairs > head_dim) return false;
  const RotaryRows rows{head_dim, form.pairs, keys.bits};
  std::vector<float> row(static_cast<size_t>(page.width));
  for (int32_t head = 0; head < kSplitPageHeads; ++head) {
    const int bound = RotarySteps(form, keys.bits, head / kRotaryHeads) * StepElements(keys.bits);
    for (int64_t i = 0; i < rows.count(); ++i) {
      ToFloat(up.Rows(rows.Row(head, i), 1), row.data());
      for (int32_t latent = 0; latent < page.width; ++latent) {
        if (row[static_cast<size_t>(latent)] != 0 &&
            RowSlot(keys.bits, page.width, latent) >= bound) {
          return false;
        }
      }
    }
  }
  return true;
}

int64_t SplitUpBytes(const ProjectionView& keys, int32_t head_dim, int32_t queries) {
  return LayOutSplitUp(keys, head_dim, SplitFormOf(queries)).bytes;
}

SplitPlan PlanSplit(const AttentionView& layer, int32_t count) {
  SplitPlan plan;
  plan.form = SplitFormOf(layer.heads_per_kv());
  if (!SupportsLayer(layer, plan.form)) return plan;
  if (Attribute(cudaDevAttrComputeCapabilityMajor) != 9) return plan;
  plan.up = LayOutSplitUp(layer.k, layer.head_dim, plan.form);
  if (plan.up.bytes == 0) return plan;
  plan.units = layer.kv_heads / plan.form.heads;
  plan.query_bytes = static_cast<int32_t>(!plan.form.grouped     ? sizeof(FastScales)
                                          : plan.form.heads == 4 ? sizeof(GroupedQueries<4>)
                                                                 : sizeof(GroupedQueries<2>));
  plan.scale_bytes =
      static_cast<int32_t>(plan.form.grouped ? sizeof(GroupedSlowScales) : sizeof(SlowScales));
  const int32_t chunks = InstanceChunks(layer.k);
  plan.steps = chunks * ChunkSteps(layer.k.bits);
  const int limit = Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  for (plan.stages = kMaxStages; plan.stages >= kMinStages; --plan.stages) {
    plan.shared = LayOut(layer, plan);
    if (plan.shared.bytes <= limit) break;
  }
  if (plan.stages < kMinStages) return plan;
  if (EndBytes(layer, plan.form) > plan.shared.bytes - plan.shared.keys) return plan;
  plan.chunks = chunks;
  plan.rotary_basis = layer.k.rotary_basis && IntegerRows(layer.k.bits);
  const int64_t sequences = layer.batch_invariant ? 1 : std::max(count, 1);
  plan.multiprocessors = Attribute(cudaDevAttrMultiProcessorCount);
  plan.splits = DecodeSplits(sequences * plan.units, plan.multiprocessors);
  return plan;
}

int64_t FastWorkspace(const SplitPlan& plan, int32_t count) {
  return int64_t{count} * plan.units * plan.made_bytes();
}

int64_t SlowWorkspace(const AttentionView& layer, const SplitPlan& plan, int32_t count,
                      int64_t blocks) {
  return (blocks * 64 / layer.split.block_tokens + count) * plan.units * plan.slow_bytes();
}

namespace {

template <class Form>
void LaunchCodes(const SplitArguments& args, cudaStream_t stream) {
  switch (args.decode.layer.k.bits) {
    case 2:
      return LaunchSplitDecodeOf<Form, 2>(args, stream);
    case 3:
      return LaunchSplitDecodeOf<Form, 3>(args, stream);
    default:
      return LaunchSplitDecodeOf<Form, 4>(args, stream);
  }
}

}  // namespace

void LaunchSplitDecode(const SplitArguments& args, cudaStream_t stream) {
  if (args.plan.form.heads == 2) return LaunchCodes<Grouped<2>>(args, stream);
  if (args.plan.form.grouped) return LaunchCodes<Grouped<4>>(args, stream);
  switch (args.decode.layer.k.bits) {
    case 8:
      return LaunchSplitDecodeOf<Absorbed, 8>(args, stream);
    case 16:
      return LaunchSplitDecodeOf<Absorbed, 16>(args, stream);
    default:
      return LaunchCodes<Absorbed>(args, stream);
  }
}

}  // namespace palu::cuda
