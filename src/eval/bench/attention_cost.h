// What one decode step of one layer's attention must move and compute.
#pragma once

#include "runtime/cache_layout.h"

namespace palu {

struct AttentionCost {
  double cache_bytes = 0;  // codes, scales, zeros and elements; padding is not read
  double up_bytes = 0;     // U_k and U_v, once for the whole batch
  double flops = 0;        // a multiply-add counts two

  double bytes() const { return cache_bytes + up_bytes; }
};

// `batch` sequences of `context` keys, one query token each. The operations are those of the
// method when every key is rebuilt once and U_v is applied after the weighted sum of latents:
//   K rebuilt:  2 rank g d per token and group     q k:  2 d per token and query head
//   sum p v:    2 width per token and query head   U_v:  2 rank d per sequence and query head
// with width = rank or, where values are plain, d. Rotations, softmax and unpacking are not
// counted. A kernel that gets by with less does not get a smaller count.
AttentionCost CountAttention(const ModelConfig& one_layer, const CacheLayout& layout,
                             int64_t context, int64_t batch);

// `batch` prompts of `tokens`, attending causally to dense 16-bit keys and values: queries, keys
// and values are read once, as cache_bytes, and each of tokens (tokens + 1) / 2 pairs takes 4 d per
// query head.
AttentionCost CountPrefill(const ModelConfig& one_layer, int64_t tokens, int64_t batch);

}  // namespace palu
