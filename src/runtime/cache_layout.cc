#include "runtime/cache_layout.h"

#include <fmt/format.h>

#include "base/error.h"
#include "ops/int8_up.h"
#include "tensor/tensor.h"

namespace palu {
namespace {

LatentQuantization EffectiveQuantization(const ModelConfig& config, const CacheFormat& format) {
  LatentQuantization quantization;
  if (config.compression) quantization = config.compression->quantization;
  if (format.latent_bits) {
    Require(config.compression.has_value(),
            "latent-bits: expected a compressed model, found a dense one, which has no latents");
    quantization.bits = *format.latent_bits;
  }
  CheckQuantization(quantization);
  return quantization;
}

}  // namespace

CacheLayout::CacheLayout(const ModelConfig& config, const CacheFormat& format)
    : dtype_(format.dtype),
      quantization_(EffectiveQuantization(config, format)),
      elements_per_token_(2 * config.num_layers * config.kv_size()) {
  tiered_ = config.compression && config.compression->tiered;
  if (tiered_) recent_ = config.compression->recent;
  Require(!tiered_ || !format.latent_bits,
          "latent-bits: expected latents that are stored alike, found a model with tiers of bits");
  const auto place = [&](const ProjectionRanks& projection) {
    return projection.factored()
               ? PlaceLatents(config.num_kv_heads / std::ssize(projection.ranks), projection)
               : PlacePlain(config.num_kv_heads, config.head_dim);
  };
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerRanks ranks = config.Ranks(l);
    CachedPages k = place(ranks.k);
    CachedPages v = ranks.shared ? k : place(ranks.v);
    layers_.push_back({std::move(k), std::move(v), ranks.shared});
  }
  bytes_.recent = static_cast<double>(window_bytes_) / kStatedContext;
}

CachedPages CacheLayout::PlacePlain(int64_t heads, int64_t head_dim) {
  CachedPages placed;
  placed.dtype = dtype_;
  for (int64_t h = 0; h < heads; ++h) {
    plain_ += head_dim;
    const int64_t bytes = head_dim * static_cast<int64_t>(SizeOf(dtype_));
    bytes_.elements += static_cast<double>(bytes);
    Append(bytes, {.offset = 0, .width = head_dim, .tiers = {}}, placed);
  }
  return placed;
}

CachedPages CacheLayout::PlaceLatents(int64_t heads_per_page, const ProjectionRanks& projection) {
  CachedPages placed;
  placed.heads_per_page = heads_per_page;
  placed.latent = true;
  placed.dtype = dtype_;
  placed.tiered = tiered_;
  if (!tiered_) placed.quantization = quantization_;
  for (size_t g = 0; g < projection.ranks.size(); ++g) {
    CachedPages::Page page{.offset = block_bytes_, .width = projection.ranks[g], .tiers = {}};
    latents_ += page.width;
    int64_t bytes = 0, column = 0;
    if (tiered_) {
      for (const LatentTier& tier : projection.tiers.at(g)) {
        page.tiers.push_back(
            {block_bytes_ + kBlockTokens * bytes, tier.width, column, tier.quantization()});
        bytes += CountQuantized(page.tiers.back());
        column += tier.width;
      }
      page.window_offset = window_bytes_;
      window_bytes_ += recent_ * page.width * static_cast<int64_t>(sizeof(Half));
    } else if (placed.quantized()) {
      bytes = CountQuantized(placed.Whole(page));
    } else {
      bytes = page.width * static_cast<int64_t>(SizeOf(dtype_));
      bytes_.elements += static_cast<double>(bytes);
    }
    Append(bytes, std::move(page), placed);
  }
  return placed;
}

int64_t CacheLayout::CountQuantized(const PageTier& tier) {
  const LatentQuantization& q = tier.quantization;
  Require(tier.width % kLatentMultiple == 0,
          "quantised latents: expected ranks that are multiples of {}, found {}; compress with "
          "another --rank-multiple",
          kLatentMultiple, tier.width);
  bytes_.codes += static_cast<double>(q.code_bytes(tier.width));
  bytes_.scales += static_cast<double>(q.scale_bytes() * q.runs(tier.width));
  bytes_.zeros += static_cast<double>(q.zero_bytes() * q.runs(tier.width));
  return q.bytes(tier.width);
}

void CacheLayout::Append(int64_t bytes_per_token, CachedPages::Page page, CachedPages& placed) {
  constexpr auto kAlign = static_cast<int64_t>(kAlignment);
  const int64_t padded = (kBlockTokens * bytes_per_token + kAlign - 1) / kAlign * kAlign;
  bytes_.padding +=
      static_cast<double>(padded) / kBlockTokens - static_cast<double>(bytes_per_token);
  page.offset = block_bytes_;
  placed.pages.push_back(std::move(page));
  block_bytes_ += padded;
}

std::string CacheLayout::kernel() const {
  if (latents_ == 0) return "stored keys";
  if (!tiered_ && quantization_.enabled() && Int8Up::Supports(quantization_)) {
    return fmt::format("int8 products ({})", Int8Up::KernelName());
  }
  return "float32 products";
}

std::string CacheLayout::Describe(const std::string& kernel) const {
  std::string latents = "no latents";
  if (tiered_) {
    latents = fmt::format("{} latents at {:.2f} bits in the mean", latents_, latent_bits());
  } else if (latents_ > 0) {
    latents = fmt::format(
        "{} latents at {} bits", latents_,
        quantization_.enabled() ? quantization_.bits : static_cast<int>(8 * SizeOf(dtype_)));
  }
  return fmt::format(
      "{} and {} plain elements per token, {:.1f} bytes per token, {:.3f} bits per "
      "element, keys from {}",
      latents, plain_, bytes_per_token(), bits_per_element(), kernel);
}

double CacheLayout::latent_bits() const {
  if (tiered_) return latents_ > 0 ? 8 * bytes_.codes / static_cast<double>(latents_) : 0;
  return quantization_.enabled() ? quantization_.bits : 8.0 * static_cast<double>(SizeOf(dtype_));
}

double CacheLayout::bits_per_element() const {
  return 8.0 * bytes_per_token() / static_cast<double>(elements_per_token_);
}

int64_t DenseBytesPerToken(const ModelConfig& config) {
  return 2 * config.num_layers * config.kv_size() * static_cast<int64_t>(SizeOf(DType::kF16));
}

}  // namespace palu
