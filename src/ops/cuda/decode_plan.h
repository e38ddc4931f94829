// How decode attention is cut over the device and how a thread block lays out shared memory.
#pragma once

#include "ops/cuda/attention.h"

namespace palu::cuda {

// Byte offsets in dynamic shared memory. A page's rows arrive in `land` and are multiplied in
// `tile`: the same place for elements, two for codes, which are unpacked from one into the other.
struct DecodeShared {
  int32_t rope = 0;     // [64, d/2] cos, sin; latent keys only
  int32_t queries = 0;  // [T/64, rows, d] float
  int32_t scores = 0;   // [rows, T] float
  int32_t weights = 0;  // [rows + 1, T + 8] elements; the last row is zero
  int32_t states = 0;   // [rows] Softmax2
  int32_t factors = 0;  // [rows] float
  int32_t sums = 0;     // [rows, widest V page] float
  int32_t k_land = 0, k_tile = 0, v_land = 0, v_tile = 0;
  int32_t bytes = 0;
  bool same_land = false;  // K and V take turns in one `land` and one `tile`
  bool one_tile = false;   // V is read from K's tile: one latent for both, in codes
};

// A thread block serves a unit, KV heads that share pages, over a share of the tiles of T tokens.
struct DecodePlan {
  int32_t unit_heads = 1;   // KV heads
  int32_t tile_tokens = 0;  // T: 64, 128 or 256
  int32_t head_groups = 1;  // warps that share 32 tokens, each with other heads
  int32_t threads = 0;
  int32_t splits = 1;
  int32_t units = 1;
  DecodeShared shared;

  __host__ __device__ int32_t rows(const AttentionView& layer) const {
    return unit_heads * layer.heads_per_kv();
  }
};

// Pages of a unit, and elements of a row of its tile: 16 bytes of padding keep rows apart in banks.
__host__ __device__ inline int32_t UnitPages(const ProjectionView& p, int32_t unit_heads) {
  return unit_heads / p.heads_per_page;
}
__host__ __device__ inline int32_t TileStride(const ProjectionView& p, int32_t unit_heads) {
  return UnitPages(p, unit_heads) * p.max_width + 8;
}
// Bytes of a page of codes without tiers in one block; they grow with the width.
__host__ __device__ inline int32_t PackedBytes(const ProjectionView& p, int32_t width) {
  const int32_t run = p.run == 0 || p.run > width ? width : p.run;
  const int32_t runs = (width + run - 1) / run;
  return 64 * (width * p.bits / 8 + runs * (p.symmetric ? 2 : 3));
}

// The same of any page of codes, and of the largest of a projection.
__host__ __device__ inline int32_t PackedBytes(const ProjectionView& p, const PageView& page) {
  if (p.bits != kTiers) return PackedBytes(p, page.width);
  const TierView& last = page.tiers[page.tier_count - 1];
  return last.offset + last.bytes();
}
__host__ __device__ inline int32_t MaxPackedBytes(const ProjectionView& p) {
  return p.bits == kTiers ? p.max_tier_bytes : PackedBytes(p, p.max_width);
}

inline bool IsPlain(const AttentionView& layer) { return !layer.k.latent && !layer.v.latent; }

// The fewest cuts of each of `items` equal pieces of work that keep most of `slots` busy.
int32_t DecodeSplits(int64_t items, int64_t slots);

// For `count` sequences on the current device. tile_tokens is 0 when shared memory is too small.
DecodePlan PlanDecode(const AttentionView& layer, int32_t count);

// (sequence, split) pairs per query head that the workspace holds for up to `count` sequences.
int64_t MaxPartials(const AttentionView& layer, int32_t count);

// Partial results in the workspace: the accumulators first, then the states.
struct DecodePartials {
  float* sums = nullptr;     // [count, heads, splits, widest V page]
  float2* states = nullptr;  // [count, heads, splits] max, sum
};

struct DecodeArguments {
  AttentionView layer;
  SequencesView sequences;
  DecodePlan plan;
  DecodePartials partials;
  const float* q = nullptr;  // rows q_stride elements apart
  int64_t q_stride = 0;
};

// The kernels by head_dim and type of the keys' operands; one instance file each.
template <class E, int kDim>
void LaunchLatentDecode(const DecodeArguments& arguments, cudaStream_t stream);
// Joins the splits and applies U_v and its bias.
void LaunchDecodeMerge(const DecodeArguments& arguments, DType out_dtype, void* out,
                       cudaStream_t stream);

}  // namespace palu::cuda
