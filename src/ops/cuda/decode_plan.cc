#include "ops/cuda/decode_plan.h"

#include <algorithm>

#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

int Attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  Check(cudaGetDevice(&device), "asking for the device");
  Check(cudaDeviceGetAttribute(&value, attribute, device), "reading device properties");
  return value;
}

DecodeShared LayOut(const AttentionView& layer, int32_t unit_heads, int32_t tokens) {
  const int32_t rows = unit_heads * layer.heads_per_kv(), d = layer.head_dim;
  DecodeShared s;
  int32_t end = 0;
  const auto take = [&](int32_t bytes) {
    const int32_t at = end;
    end += (bytes + 127) / 128 * 128;
    return at;
  };
  const auto tile = [&](const ProjectionView& p) { return tokens * TileStride(p, unit_heads) * 2; };
  const auto land = [&](const ProjectionView& p) {
    return UnitPages(p, unit_heads) * (tokens / 64) * MaxPackedBytes(p);
  };
  if (layer.k.latent) s.rope = take(64 * d / 2 * static_cast<int32_t>(sizeof(float2)));
  s.queries = take(tokens / 64 * rows * d * 4);
  s.scores = take(rows * tokens * 4);
  s.weights = take((rows + 1) * (tokens + 8) * 2);
  s.states = take(rows * 8);
  s.factors = take(rows * 4);
  s.sums = take(rows * layer.v.max_width * 4);
  s.one_tile = layer.shared_latents && layer.k.bits < 16;
  s.same_land = !s.one_tile && layer.k.bits < 16 && layer.v.bits < 16;
  if (s.one_tile) {
    s.k_tile = s.v_tile = take(tile(layer.k));
    s.k_land = take(land(layer.k));
  } else if (s.same_land) {
    s.k_tile = s.v_tile = take(std::max(tile(layer.k), tile(layer.v)));
    s.k_land = s.v_land = take(std::max(land(layer.k), land(layer.v)));
  } else {
    s.k_land = s.k_tile = take(tile(layer.k));
    s.v_land = s.v_tile = take(tile(layer.v));
    if (layer.k.bits < 16) s.k_land = take(land(layer.k));
    if (layer.v.bits < 16) s.v_land = take(land(layer.v));
  }
  s.bytes = end;
  return s;
}

// Thread blocks that run at once.
int32_t Slots(const DecodePlan& plan) {
  int32_t blocks = 1;
  if (plan.threads <= 128) {
    const int per_sm = Attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    blocks = std::clamp(per_sm / (plan.shared.bytes + 1024), 1, 2);
  }
  return blocks * Attribute(cudaDevAttrMultiProcessorCount);
}

DecodePlan PlanUnits(const AttentionView& layer) {
  DecodePlan plan;
  plan.unit_heads = std::max(layer.k.heads_per_page, layer.v.heads_per_page);
  const int limit = Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  for (const int32_t tokens : {256, 128, 64}) {
    const DecodeShared shared = LayOut(layer, plan.unit_heads, tokens);
    if (shared.bytes > limit) continue;
    plan.tile_tokens = tokens;
    plan.head_groups = std::min(256 / tokens, plan.unit_heads);
    plan.threads = tokens * plan.head_groups;
    plan.shared = shared;
    break;
  }
  plan.units = layer.kv_heads / plan.unit_heads;
  return plan;
}

}  // namespace

// Waves are to be full or nearly so.
int32_t DecodeSplits(int64_t items, int64_t slots) {
  int32_t best = 1;
  double best_use = 0;
  for (int32_t splits = 1; splits == 1 || (splits <= 256 && items * splits <= 2 * slots);
       ++splits) {
    const int64_t blocks = items * splits, waves = (blocks + slots - 1) / slots;
    const double use = static_cast<double>(blocks) / static_cast<double>(waves * slots);
    if (use > best_use + (waves > 1 ? 0.05 : 0.0)) {
      best = splits;
      best_use = use;
    }
  }
  return best;
}

DecodePlan PlanDecode(const AttentionView& layer, int32_t count) {
  DecodePlan plan = PlanUnits(layer);
  if (plan.tile_tokens == 0) return plan;
  const int64_t sequences = layer.batch_invariant ? 1 : std::max(count, 1);
  plan.splits = DecodeSplits(sequences * plan.units, Slots(plan));
  return plan;
}

int64_t MaxPartials(const AttentionView& layer, int32_t count) {
  const DecodePlan plan = PlanDecode(layer, count);
  if (layer.batch_invariant) return int64_t{count} * plan.splits;
  // Fewer sequences may have more splits, but never more than fill the device twice.
  return std::max<int64_t>(count, 2 * Slots(plan) / plan.units);
}

}  // namespace palu::cuda
