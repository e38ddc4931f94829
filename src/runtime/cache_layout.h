// How the KV cache of a model lies in memory.
//
// A block holds 64 consecutive tokens of one sequence for all layers. Inside it every layer and
// projection has one page per group of KV heads (latents) or per KV head (plain keys after RoPE,
// plain values): a row-major [64, width] array of the cache's element type. Page sizes are
// multiples of 64 bytes for widths that are multiples of 16, so nothing is padded in practice;
// what padding there is counts as stored bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"
#include "ops/paged_kv.h"

namespace palu {

struct LayerCacheLayout {
  CachedPages k, v;
};

class CacheLayout {
 public:
  CacheLayout() = default;
  CacheLayout(const ModelConfig& config, DType dtype);

  DType dtype() const { return dtype_; }
  int64_t block_bytes() const { return block_bytes_; }
  double bytes_per_token() const { return static_cast<double>(block_bytes_) / kBlockTokens; }
  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  const LayerCacheLayout& layer(int64_t l) const { return layers_[static_cast<size_t>(l)]; }

  // Stored bits over the 2 * layers * n_kv * d numbers of a token's keys and values
  // (method.md section 3: everything counted).
  double bits_per_element() const;

 private:
  CachedPages Place(int64_t pages, int64_t heads_per_page, const std::vector<int64_t>& widths);

  DType dtype_ = DType::kF16;
  int64_t block_bytes_ = 0;
  int64_t elements_per_token_ = 0;
  std::vector<LayerCacheLayout> layers_;
};

// Bytes per token of an uncompressed fp16 cache.
int64_t DenseBytesPerToken(const ModelConfig& config);

// Blocks that `tokens` need.
constexpr int64_t BlocksFor(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

}  // namespace palu
