// Rows W of the frequency split from the queries of a step (split_plan.h).
//
// A fast pair f has two rows of its own where there is one query per KV head, q_x U_x + q_y U_y and
// q_y U_x - q_x U_y, for its cosine and its sine. The slow pairs of a block around position p0 have
// W_j = Re sum_f g_jf (U_x + i U_y) with g_jf = c_jf conj(q_f) e^{i theta_f p0}: a product of
// [blocks * queries * terms, 2 slow pairs] by [2 slow pairs, width].
#include <cuda_fp16.h>

#include <algorithm>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/rope_angle.cuh"
#include "ops/cuda/split_blocks.cuh"
#include "ops/cuda/split_slots.cuh"
#include "ops/cuda/wgmma.cuh"
#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kGroupThreads = 128, kGroups = kThreads / kGroupThreads;  // warpgroups
constexpr int kTileRows = 64;   // of W, of a warpgroup at a time
constexpr int kMaxBlocks = 32;  // of T tokens whose phases are held at a time
constexpr float kLog2E = 1.44269504088896340736f;

// Largest entry of W: bytes use their whole range, fp16 stays far from its limit.
template <int kBits>
constexpr float kLargest = IntegerRows(kBits) ? 127.0f : 1024.0f;

template <class F, int kBits, int kChunks, int kDim>
struct Shapes {
  static constexpr SplitForm kForm = F::kForm;
  static constexpr int kHalf = kDim / 2, kPairs = kForm.pairs, kSlow = kHalf - kPairs;
  static constexpr int kTerms = kForm.terms, kQueries = kForm.queries;
  static constexpr int kRows = kQueries * kTerms;         // of a KV head in a block
  static constexpr int kDepth = SlowDepth(kDim, kPairs);  // of the product
  static constexpr int kSlots = kChunks * ChunkSteps(kBits) * 32 / RowElementBytes(kBits);
  static constexpr int kPasses = kSlots / 128;         // over the columns
  static constexpr int kTiles = kSlots / 8 / kPasses;  // of 8 columns, of a pass
  static constexpr int kFactors = kDepth / 2 + 4;      // of a row; rows start in different banks
  // Heads of q and KV heads that a thread block needs: scales of fast rows are a page's.
  static constexpr int kNeeded = kForm.grouped ? kQueries : kSplitPageHeads;
  static constexpr int kKvHeads = kForm.grouped ? 1 : kSplitPageHeads;
  static_assert(kSlots % (kPasses * 64) == 0 && kTerms % 2 == 0 && kQueries <= kWarps);
  struct Shared {
    __half up[kDepth * kSlots];  // as PackSplitUp orders it
    PhaseBarrier up_full;
    float q[kNeeded * kDim];                 // of the queries; zero where there is none
    float bounds[kKvHeads * kHalf];          // as PackSplitUp writes them
    float2 coefficients[kTerms * kSlow];     // c_jf
    float scales[kPairs];                    // of rows of U; grouped only
    float2 phases[kMaxBlocks * kDepth / 2];  // e^{i theta_f p0}
    float2 factors[kRows * kFactors];        // c_jf conj(q_f) / largest
    float largest[kQueries];
    float heads[kSplitPageHeads * kQueries];  // what a slot's whole score is scaled by
    float pairs[kPairs];                      // FastScales; absorbed only
    __half row_scales[kMaxBlocks * kRows];    // grouped only
    float biases[kQueries];                   // grouped only, with a key bias
    float slow_bias[kMaxBlocks * kRows];      // W_j b; the same
  };
};

// Absorbed: what a head's whole score is scaled by; by one warp.
template <class S>
__device__ void ScaleHead(const float* q, const float* bounds, int head, typename S::Shared& s) {
  const int lane = Lane();
  float sum = 0;
  for (int f = lane; f < S::kPairs; f += 32) {
    const float x = q[f], y = q[f + S::kHalf];
    sum += (x * x + y * y) * bounds[f] * bounds[f];
  }
#pragma unroll
  for (int mask = 16; mask >= 1; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  if (lane == 0) s.heads[head] = sum > 0 ? sqrtf(sum / S::kPairs) : 1.0f;
}

// Absorbed: scales of the unit's fast rows. An entry is scales.pairs[f] * scales.heads[h] times a
// number of at most kLargest, since |q_f| max_i |U_f,i| bounds both rows of a pair.
template <int kBits, class S>
__device__ void ScaleFastRows(typename S::Shared& s) {
  const int t = static_cast<int>(threadIdx.x), warp = t / 32;
  if (warp < kSplitPageHeads) {
    ScaleHead<S>(s.q + warp * 2 * S::kHalf, s.bounds + warp * S::kHalf, warp, s);
  }
  __syncthreads();
  if (t < S::kPairs) {
    float most = 0;
#pragma unroll
    for (int head = 0; head < kSplitPageHeads; ++head) {
      const float* from = s.q + head * 2 * S::kHalf + t;
      const float x = from[0], y = from[S::kHalf];
      most = fmaxf(most, sqrtf(x * x + y * y) * s.bounds[head * S::kHalf + t] / s.heads[head]);
    }
    s.pairs[t] = most > 0 ? most / kLargest<kBits> : 1.0f;
  }
  __syncthreads();
}

template <int kBits>
__device__ void StoreRow(std::byte* rows, int count, int row, const SlotPairs<kBits>& slots,
                         float (&x)[4]) {
  SlotPairs<kBits>::Order(x);
  if constexpr (IntegerRows(kBits)) {
    char4 bytes;
    bytes.x = static_cast<signed char>(__float2int_rn(x[0]));
    bytes.y = static_cast<signed char>(__float2int_rn(x[1]));
    bytes.z = static_cast<signed char>(__float2int_rn(x[2]));
    bytes.w = static_cast<signed char>(__float2int_rn(x[3]));
    *reinterpret_cast<char4*>(rows + OperandByte(count, row, slots.first)) = bytes;
  } else {
    *reinterpret_cast<__half2*>(rows + OperandByte(count, row, slots.first * 2)) =
        __floats2half2_rn(x[0], x[1]);
    *reinterpret_cast<__half2*>(rows + OperandByte(count, row, slots.second * 2)) =
        __floats2half2_rn(x[2], x[3]);
  }
}

// Zeros in `own` of the `count` rows from `first` on, `bytes` each.
__device__ inline void ClearRows(std::byte* out, int count, int first, int own, int bytes) {
  for (int i = static_cast<int>(threadIdx.x); i < own * bytes / 16; i += kThreads) {
    *reinterpret_cast<uint4*>(out + OperandByte(count, first + i % own, i / own * 16)) = {};
  }
  __syncthreads();
}

// A head's fast rows, by the head's thread blocks together; those of a narrow page by the first
// alone, which clears the slots that have no latent.
template <int kBits, class S>
__device__ void AbsorbFast(const SplitArguments& args, const PageView& page, const float* q,
                           int head, const typename S::Shared& s, std::byte* out) {
  constexpr int kHalf = S::kHalf, kDim = 2 * kHalf, kSplitPairs = S::kPairs;
  constexpr int kSplitHeads = kSplitPageHeads, kFastRows = S::kForm.fast_rows();
  const int units = page.width / 4, rows = 2 * kSplitPairs;
  const auto* up = static_cast<const __half*>(page.up) + int64_t{head} * kDim * page.width;
  const int t = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const bool narrow = page.width < S::kSlots;
  if (narrow && block != 0) return;
  if (narrow) ClearRows(out, kFastRows, head * rows, rows, args.plan.steps * 32);
  const int step = narrow ? kThreads : static_cast<int>(gridDim.x) * kThreads;
  for (int i = block * kThreads + t; i < kSplitPairs * units; i += step) {
    const int pair = i % kSplitPairs, latent = i / kSplitPairs * 4;
    const float scale = 1 / (s.pairs[pair] * s.heads[head]);
    const float x = q[pair] * scale, y = q[pair + kHalf] * scale;
    const auto* re = reinterpret_cast<const __half2*>(up + pair * page.width + latent);
    const auto* im = reinterpret_cast<const __half2*>(up + (pair + kHalf) * page.width + latent);
    const float2 r0 = __half22float2(re[0]), r1 = __half22float2(re[1]);
    const float2 i0 = __half22float2(im[0]), i1 = __half22float2(im[1]);
    float a[4] = {x * r0.x + y * i0.x, x * r0.y + y * i0.y, x * r1.x + y * i1.x,
                  x * r1.y + y * i1.y};
    float b[4] = {y * r0.x - x * i0.x, y * r0.y - x * i0.y, y * r1.x - x * i1.x,
                  y * r1.y - x * i1.y};
    const SlotPairs<kBits> slots(page.width, latent);
    StoreRow<kBits>(out, kFastRows, head * rows + 2 * pair, slots, a);
    StoreRow<kBits>(out, kFastRows, head * rows + 2 * pair + 1, slots, b);
  }
  auto* scales = reinterpret_cast<FastScales*>(out + args.plan.steps * 32 * kFastRows);
  if (block != 0) return;
  if (head == 0 && t < kSplitPairs) scales->pairs[t] = s.pairs[t];
  // Codes of 8 bits are multiplied as fp16 numbers of 2^-24.
  const float unpacked = kBits == 8 ? 16777216.0f : 1.0f;
  if (head == 0 && t < kSplitHeads) {
    scales->heads[t] = s.heads[t] * args.decode.layer.scale * kLog2E * unpacked;
  }
}

// Grouped: what a slot's whole score is scaled by, so that entries of the queries and scales of
// slow rows are at most one and two: entries of W are at most the sum of their pairs' bounds.
template <class S>
__device__ void ScaleSlots(const float* q, const float* scales, const float* bounds, int queries,
                           typename S::Shared& s) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = Lane();
  for (int i = warp; i < S::kQueries; i += kWarps) {
    float most = 0, sum = 0;
    for (int f = lane; f < S::kHalf && i < queries; f += 32) {
      const float x = q[i * 2 * S::kHalf + f], y = q[i * 2 * S::kHalf + f + S::kHalf];
      if (f < S::kPairs) most = fmaxf(most, fmaxf(fabsf(x), fabsf(y)) * scales[f]);
      if (f >= S::kPairs) sum += sqrtf(x * x + y * y) * bounds[f];
    }
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, mask));
      sum += __shfl_xor_sync(~0u, sum, mask);
    }
    if (lane == 0) {
      const float scale = fmaxf(most, sum / 127.0f);
      s.heads[i] = scale > 0 ? scale : 1.0f;
    }
  }
  __syncthreads();
}

// Grouped: what parts of scores that a key bias [2 half] makes are scaled by: entries are at most
// two.
template <class S>
__device__ void ScaleBiases(const float* q, const float* bias, int queries, typename S::Shared& s) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = Lane();
  for (int i = warp; i < S::kQueries; i += kWarps) {
    float most = 0, sum = 0;
    for (int f = lane; f < S::kHalf && i < queries; f += 32) {
      const float x = q[i * 2 * S::kHalf + f], y = q[i * 2 * S::kHalf + f + S::kHalf];
      const float b_x = bias[f], b_y = bias[f + S::kHalf];
      const float size = sqrtf((x * x + y * y) * (b_x * b_x + b_y * b_y));
      if (f < S::kPairs) most = fmaxf(most, size);
      if (f >= S::kPairs) sum += size;
    }
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, mask));
      sum += __shfl_xor_sync(~0u, sum, mask);
    }
    if (lane == 0) s.biases[i] = fmaxf(most, sum) > 0 ? fmaxf(most, sum) : 1.0f;
  }
  __syncthreads();
}

// Two numbers as sums of two fp16 numbers each.
__device__ inline void SplitHalves(float x, float y, uint32_t& high, uint32_t& low) {
  const __half2 rounded = __floats2half2_rn(x, y);
  const float2 back = __half22float2(rounded);
  const __half2 rest = __floats2half2_rn(x - back.x, y - back.y);
  high = reinterpret_cast<const uint32_t&>(rounded);
  low = reinterpret_cast<const uint32_t&>(rest);
}

// Grouped: what the queries of a KV head make of its bias in fast pairs, as operands that meet the
// waves.
template <class S>
__device__ void StoreBiases(const SplitArguments& args, const float* q, const float* bias,
                            int in_unit, int queries, const typename S::Shared& s, std::byte* out) {
  auto& to = *reinterpret_cast<GroupedQueries<S::kForm.heads>*>(out);
  for (int i = static_cast<int>(threadIdx.x); i < S::kQueries * kBiasSteps * 8; i += kThreads) {
    const int half = i % 2, c = i / 2 % 4, step = i / 8 % kBiasSteps, query = i / 8 / kBiasSteps;
    const int slot = in_unit * S::kQueries + query, pair = step * 8 + 4 * half + c;
    float cosine = 0, sine = 0;
    if (pair < S::kPairs && query < queries) {
      const float* from = q + query * 2 * S::kHalf + pair;
      const float x = from[0], y = from[S::kHalf], b_x = bias[pair], b_y = bias[pair + S::kHalf];
      cosine = (x * b_x + y * b_y) / s.biases[query];
      sine = (y * b_x - x * b_y) / s.biases[query];
    }
    Fragment& high = to.bias[0][slot / 8][step][slot % 8 * 4 + c];
    Fragment& low = to.bias[1][slot / 8][step][slot % 8 * 4 + c];
    if (half == 0) {
      SplitHalves(cosine, sine, high.x, low.x);
    } else {
      SplitHalves(cosine, sine, high.y, low.y);
    }
  }
  const int t = static_cast<int>(threadIdx.x);
  if (t < S::kQueries) {
    const float scale = t < queries ? s.biases[t] * args.decode.layer.scale * kLog2E : 0.0f;
    to.biases[in_unit * S::kQueries + t] = scale / kKeyDown;
  }
}

// Grouped: the queries of a KV head as operands that meet its rotated fast pairs.
template <class S>
__device__ void StoreQueries(const SplitArguments& args, const float* q, const float* scales,
                             int in_unit, int queries, const typename S::Shared& s,
                             std::byte* out) {
  constexpr int kHeads = S::kForm.heads, kSteps = kFastSteps<kHeads>;
  auto& to = *reinterpret_cast<GroupedQueries<kHeads>*>(out);
  for (int i = static_cast<int>(threadIdx.x); i < S::kQueries * kSteps * 8; i += kThreads) {
    const int half = i % 2, c = i / 2 % 4, step = i / 8 % kSteps, query = i / 8 / kSteps;
    const int slot = in_unit * S::kQueries + query, t = slot / 8;
    const int column = (FirstFastStep<kHeads>(t) + step) * 16 + 8 * half + 2 * c;
    const int pair = column % (2 * S::kPairs) / 2;
    __half2 entry = __floats2half2_rn(0, 0);
    if (column / (2 * S::kPairs) == in_unit && query < queries) {
      const float scale = scales[pair] / s.heads[query];
      const float* from = q + query * 2 * S::kHalf + pair;
      entry = __floats2half2_rn(from[0] * scale, from[S::kHalf] * scale);
    }
    Fragment& fragment = to.fast[t][step][slot % 8 * 4 + c];
    (half == 0 ? fragment.x : fragment.y) = reinterpret_cast<const uint32_t&>(entry);
  }
  const int t = static_cast<int>(threadIdx.x);
  if (t < S::kQueries) {
    const float scale = t < queries ? s.heads[t] * args.decode.layer.scale * kLog2E : 0.0f;
    to.heads[in_unit * S::kQueries + t] = scale / kKeyDown;
  }
}

// Starts copying a head's rows of U of slow pairs; by one thread.
template <class S>
__device__ void StageUp(const std::byte* packed, int head, typename S::Shared& s) {
  constexpr uint32_t kBytes = sizeof(s.up);
  s.up_full.Init(1);
  FenceBarrierInit();
  s.up_full.ArriveExpecting(kBytes);
  CopyBulk(s.up, packed + head * kBytes, kBytes, s.up_full);
}

// (x.x + i x.y)(y.x + i y.y)
__device__ inline float2 Product(float2 x, float2 y) {
  return {x.x * y.x - x.y * y.y, x.x * y.y + x.y * y.x};
}

// Of a KV head: what of g_jf its queries give. Pairs that fill up the depth are zero.
template <class S>
__device__ void MakeFactors(const float* q, int queries, typename S::Shared& s) {
  constexpr int kPadded = S::kDepth / 2;
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = Lane();
  if (warp < S::kQueries) {
    const float* from = q + warp * 2 * S::kHalf + S::kPairs;
    float most = 0;
    for (int f = lane; f < S::kSlow && warp < queries; f += 32) {
      most = fmaxf(most, fmaxf(fabsf(from[f]), fabsf(from[f + S::kHalf])));
    }
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, mask));
    if (lane == 0) s.largest[warp] = most > 0 ? most : 1.0f;
  }
  __syncthreads();
  for (int i = t; i < S::kRows * kPadded; i += kThreads) {
    const int f = i % kPadded, row = i / kPadded, query = row / S::kTerms;
    float2 x = {0, 0};
    if (f < S::kSlow && query < queries) {
      const float* from = q + query * 2 * S::kHalf + S::kPairs + f;
      const float2 c = s.coefficients[row % S::kTerms * S::kSlow + f];
      x = Product(c, {from[0] / s.largest[query], -from[S::kHalf] / s.largest[query]});
    }
    s.factors[row * S::kFactors + f] = x;
  }
}

// What does not depend on the queries, but for U: a head's bounds, scales and coefficients.
template <class S>
__device__ void StageTables(const AttentionView& layer, const SplitUp& at, const std::byte* up,
                            int in_page, typename S::Shared& s) {
  const int first = S::kForm.grouped ? in_page : 0;
  const auto* bounds = reinterpret_cast<const float*>(up + at.bounds) + first * S::kHalf;
  const auto* scales = reinterpret_cast<const float*>(up + at.scales) + first * S::kPairs;
  constexpr int kCoefficients = S::kTerms * S::kSlow, kBounds = S::kKvHeads * S::kHalf;
  for (int i = static_cast<int>(threadIdx.x); i < max(kCoefficients, kBounds); i += kThreads) {
    if (i < kCoefficients) s.coefficients[i] = layer.split.coefficients[i];
    if (i < kBounds) s.bounds[i] = bounds[i];
    if (S::kForm.grouped && i < S::kPairs) s.scales[i] = scales[i];
  }
}

// The fast pairs' rows of U into the L2 cache.
template <class S>
__device__ void PrefetchFast(const PageView& page, int head) {
  const auto* up = static_cast<const __half*>(page.up) + int64_t{head} * 2 * S::kHalf * page.width;
  constexpr int kLine = 64;  // elements
  const int first = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  for (int i = first * kLine; i < 2 * S::kPairs * page.width;
       i += static_cast<int>(gridDim.x) * kThreads * kLine) {
    const int member = i / (S::kPairs * page.width);  // of the pairs
    const __half* at = up + i + member * (S::kHalf - S::kPairs) * page.width;
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(at));
  }
}

// What blocks, the first of them around `middle`, turn slow pairs by.
template <class S>
__device__ void MakePhases(const AttentionView& layer, int64_t middle, int blocks,
                           typename S::Shared& s) {
  constexpr int kPadded = S::kDepth / 2;
  for (int i = static_cast<int>(threadIdx.x); i < blocks * kPadded; i += kThreads) {
    const int64_t block = i / kPadded;
    const int f = i % kPadded;
    if (f >= S::kSlow) {
      s.phases[i] = {0, 0};
      continue;
    }
    const double turns = static_cast<double>(middle + block * layer.split.block_tokens) *
                         layer.rope.turns[S::kPairs + f];
    sincospif(static_cast<float>(2 * (turns - rint(turns))), &s.phases[i].y, &s.phases[i].x);
  }
}

// Two operands of the product's left side: the real part of g_jf and the imaginary one, negated.
__device__ inline uint32_t Turned(float2 factor, float2 phase) {
  const float2 g = Product(factor, phase);
  const __half2 x = __floats2half2_rn(g.x, -g.y);
  return reinterpret_cast<const uint32_t&>(x);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The left side of the product: a thread's part of 64 rows of g_jf, of which it has rows `at`.
template <class S>
struct Turns {
  static constexpr int kSteps = S::kDepth / 16;
  uint32_t of[kSteps][4];

  __device__ Turns(const typename S::Shared& s, const int (&at)[2]) {
    const int c = Lane() % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float2* factors = s.factors + at[r] % S::kRows * S::kFactors + c;
      const float2* phases = s.phases + at[r] / S::kRows * (S::kDepth / 2) + c;
#pragma unroll
      for (int i = 0; i < 2 * kSteps; ++i) {
        of[i / 2][i % 2 * 2 + r] = Turned(factors[4 * i], phases[4 * i]);
      }
    }
  }

  // Those rows of W, kTiles tiles of 8 columns of `pass`.
  __device__ void Multiply(const typename S::Shared& s, int pass,
                           float (&sums)[S::kTiles * 4]) const {
    const OperandB up(SharedAddress(s.up) + static_cast<uint32_t>(pass * S::kTiles * 8 * 16),
                      S::kSlots);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) Wgmma(sums, of[k], OperandB(up, k * 32 * S::kSlots), k > 0);
    WgmmaCommit();
    WgmmaWait<0>();
  }
};

// 16 bytes of a row of W from a lane's sums: of tiles `first` on, rows' elements 2 r and 2 r + 1.
template <int kBits, int kSums>
__device__ inline uint4 RoundRow(const float (&sums)[kSums], int first, int r, float to) {
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (IntegerRows(kBits)) {
      // The last byte of 1.5 2^23 + n is that of n.
      constexpr float kMagic = 12582912.0f;
      uint32_t n[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        n[i] = __float_as_uint(fmaf(sums[(first + 2 * w + i / 2) * 4 + 2 * r + i % 2], to, kMagic));
      }
      words[w] =
          __byte_perm(__byte_perm(n[0], n[1], 0x0040), __byte_perm(n[2], n[3], 0x0040), 0x5410);
    } else {
      const float* x = sums + (first + w) * 4 + 2 * r;
      const __half2 pair = __floats2half2_rn(x[0] * to, x[1] * to);
      words[w] = reinterpret_cast<const uint32_t&>(pair);
    }
  }
  return {words[0], words[1], words[2], words[3]};
}

// What entries of a row are multiplied by before they are rounded, given the largest. `scale`: what
// the kernel multiplies products with the row by, to get parts of a slot's score over heads[slot].
template <int kBits, class S>
__device__ inline float RowScale(float most, float largest, float head, float& scale) {
  if (most == 0) {
    scale = 0;
    return 0;
  }
  if constexpr (S::kForm.grouped) {  // an operand of fp16, rounded up
    constexpr float kUp = kKeyDown / kWaveDown;
    scale = __half2float(__float2half_ru(kUp * most * largest / (kLargest<kBits> * head)));
    return kUp * largest / (scale * head);
  } else {
    const float to = kLargest<kBits> / most;
    scale = largest / (to * head);
    return to;
  }
}

// W of `blocks` blocks for a KV head, `head` in the unit; each group has every kGroups-th tile of
// rows.
template <int kBits, class S>
__device__ void AbsorbSlow(const SplitArguments& args, int head, int blocks, int unit_stride,
                           typename S::Shared& s, std::byte* out) {
  constexpr int kSlowRows = S::kForm.slow_rows();
  constexpr int kStored = IntegerRows(kBits) ? 8 : 4;  // tiles that give a lane 16 bytes of a row
  const int t = static_cast<int>(threadIdx.x), lane = Lane(), c = lane % 4;
  const int own = t % kGroupThreads / 32 * 16 + lane / 4;  // of a tile's rows; and 8 behind
  const int rows = blocks * S::kRows;
  for (int tile = Uniform(t / kGroupThreads) * kTileRows; tile < rows;
       tile += kGroups * kTileRows) {
    const int at[2] = {min(tile + own, rows - 1), min(tile + own + 8, rows - 1)};
    const Turns<S> turns(s, at);
    float sums[S::kTiles * 4], most[2] = {0, 0}, to[2];
#pragma unroll 1
    for (int pass = 0; pass < S::kPasses; ++pass) {
      turns.Multiply(s, pass, sums);
#pragma unroll
      for (int i = 0; i < S::kTiles * 4; ++i) {
        most[i % 4 / 2] = fmaxf(most[i % 4 / 2], fabsf(sums[i]));
      }
    }
    std::byte* to_rows[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 1));
      most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 2));
      const int block = at[r] / S::kRows, in_block = at[r] % S::kRows;
      const int query = in_block / S::kTerms, row = head * S::kRows + in_block;
      float scale;
      to[r] = RowScale<kBits, S>(most[r], s.largest[query],
                                 s.heads[S::kForm.grouped ? query : head], scale);
      std::byte* block_rows = out + int64_t{block} * unit_stride;
      to_rows[r] = block_rows + row * 16;
      if (c != 0 || tile + own + 8 * r >= rows) continue;
      if constexpr (S::kForm.grouped) {
        s.row_scales[at[r]] = __float2half_rn(scale);
      } else {
        reinterpret_cast<SlowScales*>(block_rows + args.plan.slow_row_bytes())->rows[row] = scale;
      }
    }
#pragma unroll 1
    for (int pass = S::kPasses - 1; pass >= 0; --pass) {  // the last one's sums are there
      if (pass + 1 < S::kPasses) turns.Multiply(s, pass, sums);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (tile + own + 8 * r >= rows) continue;
#pragma unroll
        for (int n = 0; n < S::kTiles; n += kStored) {
          const int piece = (pass * S::kTiles + n) / kStored * 4 + c;  // of 16 bytes
          *reinterpret_cast<uint4*>(to_rows[r] + piece * kSlowRows * 16) =
              RoundRow<kBits>(sums, n, r, to[r]);
        }
      }
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

// Grouped: W_j b of `blocks` blocks for a KV head, as operands that meet the slow waves.
template <class S>
__device__ void StoreSlowBias(const SplitArguments& args, const float* bias, int in_unit,
                              int blocks, int unit_stride, typename S::Shared& s, std::byte* out) {
  for (int at = static_cast<int>(threadIdx.x); at < blocks * S::kRows; at += kThreads) {
    const float2* factors = s.factors + at % S::kRows * S::kFactors;
    const float2* phases = s.phases + at / S::kRows * (S::kDepth / 2);
    float sum = 0;
    for (int f = 0; f < S::kSlow; ++f) {
      const float2 g = Product(factors[f], phases[f]);
      sum += g.x * bias[S::kPairs + f] - g.y * bias[S::kPairs + f + S::kHalf];
    }
    const int query = at % S::kRows / S::kTerms;
    s.slow_bias[at] = sum * s.largest[query] / s.biases[query] * (kKeyDown / kWaveDown);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < blocks * S::kQueries * 4; i += kThreads) {
    const int c = i % 4, query = i / 4 % S::kQueries, block = i / 4 / S::kQueries;
    const int slot = in_unit * S::kQueries + query;
    const float* from = s.slow_bias + block * S::kRows + query * S::kTerms + 2 * c;
    auto& to = *reinterpret_cast<GroupedSlowScales*>(out + int64_t{block} * unit_stride +
                                                     args.plan.slow_row_bytes());
    const bool real = 2 * c < S::kTerms;
    SplitHalves(real ? from[0] : 0.0f, real ? from[1] : 0.0f,
                to.bias[0][slot / 8][slot % 8 * 4 + c], to.bias[1][slot / 8][slot % 8 * 4 + c]);
  }
}

// Grouped: scales of a KV head's rows as operands; another slot's are zero.
template <class S>
__device__ void StoreSlowScales(const SplitArguments& args, int in_unit, int blocks,
                                int unit_stride, const typename S::Shared& s, std::byte* out) {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < blocks * S::kQueries * kSlowSteps * 8;
       i += kThreads) {
    const int half = i % 2, c = i / 2 % 4, step = i / 8 % kSlowSteps;
    const int query = i / 8 / kSlowSteps % S::kQueries, block = i / 8 / kSlowSteps / S::kQueries;
    const int slot = in_unit * S::kQueries + query;
    const int column = step * 16 + 8 * half + 2 * c;  // among those of eight slots
    __half2 scales = __floats2half2_rn(0, 0);
    if (column / S::kTerms == slot % 8) {
      const __half* from = s.row_scales + block * S::kRows + query * S::kTerms + column % S::kTerms;
      scales = __halves2half2(from[0], from[1]);
    }
    auto& to = *reinterpret_cast<GroupedSlowScales*>(out + int64_t{block} * unit_stride +
                                                     args.plan.slow_row_bytes());
    Fragment& fragment = to.slow[slot / 8][step][slot % 8 * 4 + c];
    (half == 0 ? fragment.x : fragment.y) = reinterpret_cast<const uint32_t&>(scales);
  }
}

// grid: (parts, KV heads, count). A thread block has a share of a sequence's blocks of T tokens.
template <class F, int kBits, int kChunks, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    AbsorbQueries(const __grid_constant__ SplitArguments args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shapes<F, kBits, kChunks, kDim>;
  extern __shared__ __align__(128) std::byte bytes[];
  auto& s = *reinterpret_cast<typename S::Shared*>(bytes);
  const AttentionView& layer = args.decode.layer;
  const SequencesView& sequences = args.decode.sequences;
  const int kv_head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
  const int unit = kv_head / S::kForm.heads, in_unit = kv_head % S::kForm.heads;
  const int in_page = kv_head % kSplitPageHeads, queries = layer.heads_per_kv();
  const int tokens = layer.split.block_tokens, units = args.plan.units;
  const int blocks = (Uniform(sequences.lengths[sequence]) + tokens - 1) / tokens;
  const int part = static_cast<int>(blockIdx.x), parts = static_cast<int>(gridDim.x);
  const int begin = static_cast<int>(int64_t{blocks} * part / parts);
  const int end = static_cast<int>(int64_t{blocks} * (part + 1) / parts);
  const PageView page = layer.k.pages[kv_head / kSplitPageHeads];
  const auto* up = static_cast<const std::byte*>(page.split_up);
  if (threadIdx.x == 0) StageUp<S>(up + args.plan.up.slow, in_page, s);
  const int64_t position = sequences.first_positions[sequence] + tokens / 2;
  StageTables<S>(layer, args.plan.up, up, in_page, s);
  if (!S::kForm.grouped) PrefetchFast<S>(page, in_page);
  MakePhases<S>(layer, position + int64_t{begin} * tokens, min(end - begin, kMaxBlocks), s);
  const float* bias = layer.k.bias != nullptr ? layer.k.bias + kv_head * kDim : nullptr;
  std::byte* made = args.fast + (int64_t{sequence} * units + unit) * args.plan.made_bytes();
  const int64_t before = SlowBlocksBefore(sequences, sequence, tokens);
  WaitForPreviousKernel();
  LetNextKernelStart();
  const int first_head = S::kForm.grouped ? kv_head * queries : kv_head - in_page;
  const float* from = args.decode.q + sequence * args.decode.q_stride + first_head * kDim;
  for (int i = static_cast<int>(threadIdx.x); i < S::kNeeded * kDim; i += kThreads) {
    s.q[i] = !S::kForm.grouped || i < queries * kDim ? from[i] : 0.0f;
  }
  __syncthreads();
  const float* q = S::kForm.grouped ? s.q : s.q + in_page * kDim;
  MakeFactors<S>(q, queries, s);
  if constexpr (S::kForm.grouped) {
    ScaleSlots<S>(q, s.scales, s.bounds, queries, s);
    if (bias != nullptr) ScaleBiases<S>(q, bias, queries, s);
    if (part == 0) {
      if (bias != nullptr) StoreBiases<S>(args, q, bias, in_unit, queries, s, made);
      StoreQueries<S>(args, q, s.scales, in_unit, queries, s, made);
    }
  } else {
    ScaleFastRows<kBits, S>(s);
    AbsorbFast<kBits, S>(args, page, q, in_unit, s, made);
  }
  s.up_full.Wait(0);
  const int stride = units * args.plan.slow_bytes();
  for (int first = begin; first < end; first += kMaxBlocks) {
    const int count = min(end - first, kMaxBlocks);
    if (first != begin) {
      __syncthreads();  // the phases before have been read
      MakePhases<S>(layer, position + int64_t{first} * tokens, count, s);
    }
    __syncthreads();
    std::byte* out = args.slow + ((before + first) * units + unit) * args.plan.slow_bytes();
    AbsorbSlow<kBits, S>(args, in_unit, count, stride, s, out);
    if constexpr (S::kForm.grouped) {
      StoreSlowScales<S>(args, in_unit, count, stride, s, out);
      if (bias != nullptr) StoreSlowBias<S>(args, bias, in_unit, count, stride, s, out);
    }
  }
#endif
}

template <class F, int kBits, int kChunks, int kDim>
void Launch(const SplitArguments& args, cudaStream_t stream) {
  using S = Shapes<F, kBits, kChunks, kDim>;
  const auto kernel = AbsorbQueries<F, kBits, kChunks, kDim>;
  const size_t shared = sizeof(typename S::Shared);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared)),
        "reserving shared memory");
  const AttentionView& layer = args.decode.layer;
  const int64_t tokens = int64_t{args.decode.sequences.stride} * 64;
  const int64_t blocks = (tokens + layer.split.block_tokens - 1) / layer.split.block_tokens;
  const int64_t rows = int64_t{layer.kv_heads} * args.decode.sequences.count;
  // Thread blocks that fill the device once, with a tile of rows for each group.
  constexpr int64_t kLeast = std::max(1, kGroups * kTileRows / S::kRows);
  const int64_t parts = std::clamp<int64_t>(args.plan.multiprocessors / rows, 1,
                                            std::max<int64_t>(1, blocks / kLeast));
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(layer.kv_heads),
                  static_cast<unsigned>(args.decode.sequences.count));
  LaunchEarly(kernel, grid, kThreads, shared, stream, args);
}

template <class F, int kBits, int kChunks>
void LaunchDim(const SplitArguments& args, cudaStream_t stream) {
  if (args.decode.layer.head_dim == 128) return Launch<F, kBits, kChunks, 128>(args, stream);
  Launch<F, kBits, kChunks, 64>(args, stream);
}

// The plan's chunks are those of one of four widths.
template <class F, int kBits>
void LaunchBits(const SplitArguments& args, cudaStream_t stream) {
  const auto is = [&](int width) { return args.plan.chunks == Chunks(kBits, width); };
  if (is(128)) return LaunchDim<F, kBits, Chunks(kBits, 128)>(args, stream);
  if (is(256)) return LaunchDim<F, kBits, Chunks(kBits, 256)>(args, stream);
  if (is(384)) return LaunchDim<F, kBits, Chunks(kBits, 384)>(args, stream);
  LaunchDim<F, kBits, Chunks(kBits, 512)>(args, stream);
}

template <class F>
void LaunchCodes(const SplitArguments& args, cudaStream_t stream) {
  switch (args.decode.layer.k.bits) {
    case 2:
      return LaunchBits<F, 2>(args, stream);
    case 3:
      return LaunchBits<F, 3>(args, stream);
    default:
      return LaunchBits<F, 4>(args, stream);
  }
}

}  // namespace

void LaunchSplitAbsorb(const SplitArguments& args, cudaStream_t stream) {
  if (args.plan.form.heads == 2) return LaunchCodes<Grouped<2>>(args, stream);
  if (args.plan.form.grouped) return LaunchCodes<Grouped<4>>(args, stream);
  switch (args.decode.layer.k.bits) {
    case 8:
      return LaunchBits<Absorbed, 8>(args, stream);
    case 16:
      return LaunchBits<Absorbed, 16>(args, stream);
    default:
      return LaunchCodes<Absorbed>(args, stream);
  }
}

}  // namespace palu::cuda
