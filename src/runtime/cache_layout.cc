#include "runtime/cache_layout.h"

#include "tensor/tensor.h"

namespace palu {

CacheLayout::CacheLayout(const ModelConfig& config, DType dtype)
    : dtype_(dtype), elements_per_token_(2 * config.num_layers * config.kv_size()) {
  const auto place = [&](const ProjectionRanks& projection) {
    if (!projection.factored()) {
      return Place(config.num_kv_heads, 1,
                   std::vector<int64_t>(static_cast<size_t>(config.num_kv_heads), config.head_dim));
    }
    const auto groups = static_cast<int64_t>(projection.ranks.size());
    return Place(groups, config.num_kv_heads / groups, projection.ranks);
  };
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerRanks ranks = config.Ranks(l);
    LayerCacheLayout layer{place(ranks.k), place(ranks.v)};
    layer.k.latent = ranks.k.factored();
    layer.v.latent = ranks.v.factored();
    layers_.push_back(std::move(layer));
  }
}

CachedPages CacheLayout::Place(int64_t pages, int64_t heads_per_page,
                               const std::vector<int64_t>& widths) {
  CachedPages placed;
  placed.heads_per_page = heads_per_page;
  placed.dtype = dtype_;
  for (int64_t p = 0; p < pages; ++p) {
    const int64_t width = widths[static_cast<size_t>(p)];
    placed.pages.push_back({block_bytes_, width});
    const int64_t bytes = kBlockTokens * width * static_cast<int64_t>(SizeOf(dtype_));
    constexpr auto kAlign = static_cast<int64_t>(kAlignment);
    block_bytes_ += (bytes + kAlign - 1) / kAlign * kAlign;
  }
  return placed;
}

double CacheLayout::bits_per_element() const {
  return 8.0 * bytes_per_token() / static_cast<double>(elements_per_token_);
}

int64_t DenseBytesPerToken(const ModelConfig& config) {
  return 2 * config.num_layers * config.kv_size() * static_cast<int64_t>(SizeOf(DType::kF16));
}

}  // namespace palu
