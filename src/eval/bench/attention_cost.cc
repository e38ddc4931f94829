#include "eval/bench/attention_cost.h"

namespace palu {
namespace {

// Parameters of U, all groups.
double UpSize(const CachedPages& pages, int64_t head_dim) {
  if (!pages.latent) return 0;
  return static_cast<double>(pages.width() * pages.heads_per_page * head_dim);
}

}  // namespace

AttentionCost CountAttention(const ModelConfig& one_layer, const CacheLayout& layout,
                             int64_t context, int64_t batch) {
  const LayerCacheLayout& layer = layout.layer(0);
  const CacheLayout::Bytes& bytes = layout.bytes();
  const double sequences = static_cast<double>(batch);
  const double tokens = sequences * static_cast<double>(context);
  const auto heads = static_cast<double>(one_layer.num_heads);
  const auto q_size = static_cast<double>(one_layer.q_size());
  const double k_up = UpSize(layer.k, one_layer.head_dim);
  const double v_up = UpSize(layer.v, one_layer.head_dim);
  // Mean width of a value as it is stored, over the heads that read it.
  const double v_width =
      static_cast<double>(layer.v.width()) / static_cast<double>(layer.v.pages.size());
  AttentionCost cost;
  cost.cache_bytes = tokens * (bytes.codes + bytes.scales + bytes.zeros + bytes.elements);
  cost.up_bytes = (k_up + v_up) * static_cast<double>(SizeOf(layout.dtype()));
  cost.flops = tokens * (2 * k_up + 2 * q_size + 2 * heads * v_width) +
               sequences * 2 * v_up * static_cast<double>(one_layer.heads_per_kv());
  return cost;
}

AttentionCost CountPrefill(const ModelConfig& one_layer, int64_t tokens, int64_t batch) {
  const auto n = static_cast<double>(tokens), sequences = static_cast<double>(batch);
  const auto q_size = static_cast<double>(one_layer.q_size());
  const auto kv_size = static_cast<double>(one_layer.num_kv_heads * one_layer.head_dim);
  AttentionCost cost;
  cost.cache_bytes = sequences * n * (q_size + 2 * kv_size) * 2;
  cost.flops = sequences * n * (n + 1) / 2 * 4 * q_size;
  return cost;
}

}  // namespace palu
