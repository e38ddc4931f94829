// The quantiser of ops/latent_quantization.h on the device. Every operation is rounded by itself
// (__fmul_rn and friends), so that codes are the CPU's bit for bit.
#include <algorithm>
#include <cassert>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/element.cuh"
#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/mid_rise.cuh"
#include "ops/cuda/reduce.cuh"
#include "ops/cuda/rotate_head.cuh"
#include "ops/cuda/row_ops.h"

namespace palu::cuda {
namespace {

constexpr int kTokens = 64;  // of a block
constexpr int kWarps = 4;

struct ScaleZero {
  float scale, zero;
};

__device__ ScaleZero FitRun(const ProjectionView& p, float clip, float min, float max) {
  const float top = static_cast<float>((1 << p.bits) - 1);
  const float half = static_cast<float>(1 << (p.bits - 1));
  min = __fmul_rn(min, clip);
  max = __fmul_rn(max, clip);
  float scale = p.symmetric ? __fdiv_rn(fmaxf(fmaxf(max, -min), 1e-5f), half - 1)
                            : __fdiv_rn(fmaxf(__fsub_rn(max, min), 1e-5f), top);
  scale = __half2float(__float2half_rn(fminf(scale, 65504.0f)));
  const float zero = p.symmetric ? half : fminf(fmaxf(rintf(__fdiv_rn(-min, scale)), 0.0f), top);
  return {scale, zero};
}

// `count` bytes from `plane` on: byte j holds bits [shift, shift + bits) of the codes j, j + count,
// j + 2 count, ..., from the low bits up.
template <class Code>
__device__ void PackPlane(const Code& code, int bits, int shift, int count, uint8_t* plane,
                          int lane) {
  const unsigned mask = (1u << bits) - 1;
  for (int j = lane; j < count; j += 32) {
    unsigned byte = 0;
    for (int k = 0; k < 8 / bits; ++k) {
      byte |= ((code(j + k * count) >> shift) & mask) << (k * bits);
    }
    plane[j] = static_cast<uint8_t>(byte);
  }
}

// The codes of a row (docs/cache-layout.md), code(i) of latent i.
template <class Code>
__device__ void PackCodes(const Code& code, int bits, int width, uint8_t* row, int lane) {
  if (bits == 3) {
    PackPlane(code, 2, 0, width / 4, row, lane);
    PackPlane(code, 1, 2, width / 8, row + width / 4, lane);
  } else {
    PackPlane(code, bits, 0, width * bits / 8, row, lane);
  }
}

__device__ void PackRow(const StoreView& store, const PageView& page, std::byte* block,
                        int row_in_block, const float* row, ScaleZero* fits, int lane,
                        int32_t layer, int32_t* fault) {
  const ProjectionView& p = store.projection;
  const int width = page.width;
  const int run = p.run == 0 || p.run > width ? width : p.run;
  const int runs = (width + run - 1) / run;
  for (int r = 0; r < runs; ++r) {
    float min = INFINITY, max = -INFINITY;
    bool finite = true;
    for (int i = r * run + lane; i < ::min(width, (r + 1) * run); i += 32) {
      min = fminf(min, row[i]);
      max = fmaxf(max, row[i]);
      finite &= isfinite(row[i]) != 0;
    }
    min = WarpReduce(min, [](float a, float b) { return fminf(a, b); });
    max = WarpMax(max);
    if (!__all_sync(kAllLanes, finite) && lane == 0) *fault = layer + 1;
    if (lane == 0) fits[r] = FitRun(p, store.clip_ratio, min, max);
  }
  __syncwarp();
  const int code_bytes = width * p.bits / 8;
  auto* codes = reinterpret_cast<uint8_t*>(block + page.offset);
  auto* scales = reinterpret_cast<__half*>(codes + kTokens * code_bytes);
  auto* zeros = reinterpret_cast<uint8_t*>(scales + kTokens * runs);
  for (int r = lane; r < runs; r += 32) {
    scales[row_in_block * runs + r] = __float2half_rn(fits[r].scale);
    if (!p.symmetric) zeros[row_in_block * runs + r] = static_cast<uint8_t>(fits[r].zero);
  }
  const float top = static_cast<float>((1 << p.bits) - 1);
  const auto code = [=](int i) {
    const ScaleZero fit = fits[i / run];
    const float q = __fadd_rn(rintf(__fdiv_rn(row[i], fit.scale)), fit.zero);
    return static_cast<unsigned>(fminf(fmaxf(q, 0.0f), top));
  };
  PackCodes(code, p.bits, width, codes + row_in_block * code_bytes, lane);
}

// The mid-rise quantiser: of the scales around that of the row's root mean square the one with the
// least squared error, the first of equals. `page` is where the tier's page begins in its block.
__device__ void PackTier(const TierView& tier, std::byte* page, int row_in_block, const float* row,
                         int lane, int32_t layer, int32_t* fault) {
  constexpr int kTried = (kLastScaleTried - kFirstScaleTried) / kScaleStride + 1;
  const int bits = tier.bits, width = tier.width;
  const float top = static_cast<float>((1 << bits) - 1);
  const float half = 0.5f * static_cast<float>(1 << bits);
  const auto level = [=](float h, float inverse) {
    return fminf(fmaxf(__fadd_rn(__fmul_rn(h, inverse), half), 0.0f), top);
  };
  float squares = 0;
  for (int i = lane; i < width; i += kRowLanes) {
    squares = __fadd_rn(squares, __fmul_rn(row[i], row[i]));
  }
  squares = WarpSum(squares);
  if (!isfinite(squares) && lane == 0) *fault = layer + 1;
  const float root =
      __fmul_rn(__fsqrt_rn(__fdiv_rn(squares, static_cast<float>(width))), NormalStep(bits));
  const int nearest = NearestScaleCode(fmaxf(root, 1e-30f));
  const auto tried = [=](int t) {
    return static_cast<uint8_t>(min(max(nearest + kFirstScaleTried + t * kScaleStride, 0), 255));
  };
  float step[kTried], inverse[kTried], error[kTried];
#pragma unroll
  for (int t = 0; t < kTried; ++t) {
    step[t] = LoadMidRiseScale(tried(t));
    inverse[t] = __fdiv_rn(1.0f, step[t]);
    error[t] = 0;
  }
  for (int i = lane; i < width; i += kRowLanes) {
#pragma unroll
    for (int t = 0; t < kTried; ++t) {
      const float q = truncf(level(row[i], inverse[t]));
      const float e = __fsub_rn(__fmul_rn(__fsub_rn(__fadd_rn(q, 0.5f), half), step[t]), row[i]);
      error[t] = __fadd_rn(error[t], __fmul_rn(e, e));
    }
  }
  float least = INFINITY;
  uint8_t scale = 255;
#pragma unroll
  for (int t = 0; t < kTried; ++t) {
    const float sum = WarpSum(error[t]);
    if (sum < least) {
      least = sum;
      scale = tried(t);
    }
  }
  const float best = __fdiv_rn(1.0f, LoadMidRiseScale(scale));
  auto* codes = reinterpret_cast<uint8_t*>(page) + tier.offset;
  if (lane == 0) codes[kTokens * tier.code_bytes() + row_in_block] = scale;
  PackCodes([=](int i) { return static_cast<unsigned>(level(row[i], best)); }, bits, width,
            codes + row_in_block * tier.code_bytes(), lane);
}

template <class T>
__device__ void RoundRow(const PageView& page, std::byte* block, int row_in_block, const float* row,
                         int lane) {
  T* out = reinterpret_cast<T*>(block + page.offset) + row_in_block * page.width;
  for (int i = lane; i < page.width; i += 32) out[i] = FromFloat<T>(row[i]);
}

struct StoreArguments {
  RotateView rotate;
  StoreView keys, values;
  SequencesView sequences;
  TokensView tokens;
  float* x;
  int64_t x_stride;
  int32_t max_runs, layer;
  int32_t* fault;
};

// What warps store of a page, each apart: its tiers, or all of it.
__host__ __device__ int PartsOfPage(const ProjectionView& p) {
  return p.bits == kTiers ? kMaxTiers : 1;
}
__host__ __device__ int Parts(const ProjectionView& p) { return p.page_count * PartsOfPage(p); }

// A tier's latents of a token as they are, if it is one of its sequence's last.
__device__ void KeepRecent(const SequencesView& sequences, int sequence, int at,
                           const PageView& page, const TierView& tier, const float* row, int lane) {
  const RecentView& recent = sequences.recent;
  if (recent.tokens == 0 || at < sequences.lengths[sequence] - recent.tokens) return;
  auto* ring = reinterpret_cast<__half*>(recent.windows[sequence] + page.window_offset);
  __half* to = ring + at % recent.tokens * page.width + tier.column;
  for (int i = lane; i < tier.width; i += 32) to[i] = __float2half_rn(row[i]);
}

// One part of a page of one token.
__device__ void StorePart(const StoreArguments& a, const StoreView& store, bool key, int index,
                          int64_t token, ScaleZero* fits, int lane) {
  const ProjectionView& p = store.projection;
  const PageView& page = p.pages[index / PartsOfPage(p)];
  const float* row = a.x + token * a.x_stride + store.column + page.column;
  const int32_t at = a.tokens.index[token], sequence = a.tokens.sequence[token];
  std::byte* block =
      a.sequences.blocks[static_cast<int64_t>(sequence) * a.sequences.stride + at / kTokens];
  const int row_in_block = at % kTokens;
  if (p.bits == kTiers) {
    if (index % kMaxTiers >= page.tier_count) return;
    const TierView tier = page.tiers[index % kMaxTiers];
    KeepRecent(a.sequences, sequence, at, page, tier, row + tier.column, lane);
    return PackTier(tier, block + page.offset, row_in_block, row + tier.column, lane, a.layer,
                    a.fault);
  }
  if (p.bits < 16) {
    return PackRow(store, page, block, row_in_block, row, fits, lane, a.layer, a.fault);
  }
  const auto store_as = [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (!key || !a.rotate.keys) return RoundRow<T>(page, block, row_in_block, row, lane);
    T* out = reinterpret_cast<T*>(block + page.offset) + row_in_block * page.width;
    RotateHead(a.rotate.rope, a.rotate.head_dim, a.rotate.key_norm, a.rotate.norm_eps,
               a.tokens.position[token], row, lane,
               [&](int i, float value) { out[i] = FromFloat<T>(value); });
  };
  switch (p.dtype) {
    case DType::kF32:
      return store_as(Tag<float>{});
    case DType::kBF16:
      return store_as(Tag<__nv_bfloat16>{});
    default:
      return store_as(Tag<__half>{});
  }
}

// One warp per token and query head or part of a page: queries first, then keys, then values.
__global__ void StoreKernel(const __grid_constant__ StoreArguments a) {
  extern __shared__ ScaleZero shared_fits[];
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int queries = a.rotate.query_heads, key_parts = Parts(a.keys.projection);
  const int units = queries + key_parts + Parts(a.values.projection);
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int64_t token = unit / units;
  if (token >= a.tokens.count) return;
  const int index = static_cast<int>(unit % units);
  if (index < queries) {
    float* head = a.x + token * a.x_stride + static_cast<int64_t>(index) * a.rotate.head_dim;
    return RotateHead(a.rotate.rope, a.rotate.head_dim, a.rotate.query_norm, a.rotate.norm_eps,
                      a.tokens.position[token], head, lane,
                      [&](int i, float value) { head[i] = value; });
  }
  ScaleZero* fits = shared_fits + warp * a.max_runs;
  const int part = index - queries;
  if (part < key_parts) return StorePart(a, a.keys, true, part, token, fits, lane);
  StorePart(a, a.values, false, part - key_parts, token, fits, lane);
}

int MaxRuns(const ProjectionView& p) {
  if (p.bits == kTiers || p.bits >= 16 || p.run == 0) return 1;
  return (p.max_width + p.run - 1) / p.run;
}

}  // namespace

void StoreRows(const RotateView& rotate, const StoreView& keys, const StoreView& values,
               const SequencesView& sequences, const TokensView& tokens, const DeviceMatrix& x,
               int32_t layer, int32_t* fault, cudaStream_t stream) {
  assert(rotate.head_dim <= kMaxRotatedDim);
  const int64_t units =
      tokens.count * (rotate.query_heads + Parts(keys.projection) + Parts(values.projection));
  const int runs = std::max(MaxRuns(keys.projection), MaxRuns(values.projection));
  const StoreArguments arguments{
      rotate,   keys, values, sequences, tokens, static_cast<float*>(x.data),
      x.stride, runs, layer,  fault};
  LaunchEarly(StoreKernel, dim3(static_cast<unsigned>((units + kWarps - 1) / kWarps)), 32 * kWarps,
              static_cast<size_t>(kWarps * runs) * sizeof(ScaleZero), stream, arguments);
}

}  // namespace palu::cuda
