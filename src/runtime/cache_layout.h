// How the KV cache of a model lies in memory.
//
// A block holds 64 consecutive tokens of one sequence for all layers. Inside it every layer and
// projection has one page per group of KV heads (latents) or per KV head (plain keys after RoPE,
// plain values): a row-major [64, width] array of the cache's element type, or 64 rows of codes
// with their scales and zeros when latents are quantised (docs/cache-layout.md). Page sizes are
// multiples of 64 bytes by construction for widths that are multiples of 8; what padding there is
// counts as stored bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/paged_kv.h"

namespace palu {

// At which bytes per token are stated that a sequence needs once, however long it is.
inline constexpr int64_t kStatedContext = 2048;

// What a cache stores, besides what the model says.
struct CacheFormat {
  CacheFormat() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a plain element type is the usual case
  CacheFormat(DType type) : dtype(type) {}
  CacheFormat(DType type, std::optional<int> bits) : dtype(type), latent_bits(bits) {}

  DType dtype = DType::kF16;       // F32, F16 or BF16: of everything that is not quantised
  std::optional<int> latent_bits;  // instead of the model's own (experiments); 16: not quantised
};

struct LayerCacheLayout {
  CachedPages k, v;
  bool shared = false;  // one latent for both: v's pages are k's
};

class CacheLayout {
 public:
  CacheLayout() = default;
  // Throws Error when latent_bits is given for a model that has no latents or tiers of them, is no
  // supported number, or latents to be quantised have a width or run that is no multiple of 8.
  CacheLayout(const ModelConfig& config, const CacheFormat& format);

  DType dtype() const { return dtype_; }
  const LatentQuantization& quantization() const { return quantization_; }
  int64_t block_bytes() const { return block_bytes_; }
  // Of a sequence's window of recent tokens, [recent, width] fp16 for every page of latents.
  int64_t recent() const { return recent_; }
  int64_t window_bytes() const { return window_bytes_; }
  // With its share of the window at kStatedContext.
  double bytes_per_token() const {
    return static_cast<double>(block_bytes_) / kBlockTokens + bytes_.recent;
  }
  // Of one sequence.
  int64_t BytesFor(int64_t tokens) const;
  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  const LayerCacheLayout& layer(int64_t l) const { return layers_[static_cast<size_t>(l)]; }

  // Stored bits over the 2 * layers * n_kv * d numbers of a token's keys and values
  // (method.md section 3: everything counted).
  double bits_per_element() const;

  // Elements of a token's keys and values that are latents (those that both share count once), and
  // that are stored plainly.
  int64_t latents_per_token() const { return latents_; }
  bool tiered() const { return tiered_; }
  int64_t plain_per_token() const { return plain_; }
  // Bits per latent without scales and zeros; of tiers, their mean.
  double latent_bits() const;
  // Bytes per token of codes, scales, zeros, unquantised elements, padding and the window; they add
  // up to bytes_per_token().
  struct Bytes {
    double codes = 0, scales = 0, zeros = 0, elements = 0, padding = 0, recent = 0;
  };
  const Bytes& bytes() const { return bytes_; }

  // What decoding does to keys: "int8 products (AVX2)", "float32 products" or "stored keys".
  std::string kernel() const;
  // One line: ranks, bits, bytes per token, kernel (of the CPU, unless given).
  std::string Describe() const { return Describe(kernel()); }
  std::string Describe(const std::string& kernel) const;

 private:
  CachedPages PlacePlain(int64_t heads, int64_t head_dim);
  CachedPages PlaceLatents(int64_t heads_per_page, const ProjectionRanks& projection);
  // Adds a part of a quantised page to the count; returns its bytes per token.
  int64_t CountQuantized(const PageTier& tier);
  // Gives the page its place, padded to whole cache lines.
  void Append(int64_t bytes_per_token, CachedPages::Page page, CachedPages& placed);

  DType dtype_ = DType::kF16;
  LatentQuantization quantization_;
  bool tiered_ = false;
  int64_t latents_ = 0, plain_ = 0;
  Bytes bytes_;
  int64_t block_bytes_ = 0;
  int64_t recent_ = 0, window_bytes_ = 0;
  int64_t elements_per_token_ = 0;
  std::vector<LayerCacheLayout> layers_;
};

// Bytes per token of an uncompressed fp16 cache.
int64_t DenseBytesPerToken(const ModelConfig& config);

// Blocks that `tokens` need.
constexpr int64_t BlocksFor(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

inline int64_t CacheLayout::BytesFor(int64_t tokens) const {
  return BlocksFor(tokens) * block_bytes_ + window_bytes_;
}

}  // namespace palu
