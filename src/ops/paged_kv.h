// The paged cache as value types: what an attention kernel knows of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/latent_quantization.h"
#include "tensor/dtype.h"

namespace palu {

inline constexpr int64_t kBlockTokens = 64;

// A part of a page whose latents are quantised alike: 64 rows of codes, then scales, then zeros.
struct PageTier {
  int64_t offset = 0;  // bytes from the start of the block
  int64_t width = 0;   // latents per token
  int64_t column = 0;  // of the first one in the page
  LatentQuantization quantization;
};

// Where the pages of one layer's keys or values lie inside every block.
struct CachedPages {
  struct Page {
    int64_t offset = 0;  // bytes from the start of the block
    int64_t width = 0;   // elements per token: the group's rank, or head_dim when plain
    std::vector<PageTier> tiers = {};  // of a tiered page
    int64_t window_offset = 0;  // bytes from the start of a sequence's window of recent tokens
  };
  std::vector<Page> pages;
  int64_t heads_per_page = 1;  // KV heads that share a page
  bool latent = false;
  DType dtype = DType::kF16;        // of elements that are not quantised
  LatentQuantization quantization;  // of latents that are not tiered
  bool tiered = false;

  bool quantized() const { return tiered || quantization.enabled(); }
  // A quantised page whose latents are all stored alike.
  PageTier Whole(const Page& page) const { return {page.offset, page.width, 0, quantization}; }
  // Calls tier(PageTier) for the parts of a quantised page.
  template <class F>
  void ForTiers(const Page& page, const F& tier) const {
    if (!tiered) return tier(Whole(page));
    for (const PageTier& part : page.tiers) tier(part);
  }
  const Page& OfHead(int64_t kv_head) const {
    return pages[static_cast<size_t>(kv_head / heads_per_page)];
  }
  // Elements per token over all pages.
  int64_t width() const {
    int64_t sum = 0;
    for (const Page& page : pages) sum += page.width;
    return sum;
  }
};

// The block table of one sequence: block i holds tokens [64 i, 64 (i + 1)).
struct BlockTable {
  std::byte* const* blocks = nullptr;

  // Address of a token's row in a page that is not quantised.
  std::byte* Row(const CachedPages& pages, const CachedPages::Page& page, int64_t token) const {
    const int64_t row = token % kBlockTokens;
    return blocks[token / kBlockTokens] + page.offset +
           row * page.width * static_cast<int64_t>(SizeOf(pages.dtype));
  }

  // Rows of a quantised page from a token to the end of its block: all codes of the page come
  // first, then all scales, then all zeros.
  PackedRows Packed(const PageTier& tier, int64_t token) const {
    const LatentQuantization& q = tier.quantization;
    const int64_t row = token % kBlockTokens, runs = q.runs(tier.width);
    auto* codes = reinterpret_cast<uint8_t*>(blocks[token / kBlockTokens] + tier.offset);
    uint8_t* scales = codes + kBlockTokens * q.code_bytes(tier.width);
    PackedRows rows{.codes = codes + row * q.code_bytes(tier.width), .width = tier.width};
    if (q.mid_rise) {
      rows.scale_codes = scales + row * runs;
      return rows;
    }
    rows.scales = reinterpret_cast<Half*>(scales) + row * runs;
    if (!q.symmetric) rows.zeros = scales + kBlockTokens * runs * q.scale_bytes() + row * runs;
    return rows;
  }
  PackedRows Packed(const CachedPages& pages, const CachedPages::Page& page, int64_t token) const {
    return Packed(pages.Whole(page), token);
  }
};

}  // namespace palu
