// Decode attention by the frequency split, one query per KV head: all rows W are the queries', and
// their products with a key need but to be summed with the waves.
#pragma once

#include "ops/cuda/softmax_state.cuh"
#include "ops/cuda/split_end.cuh"
#include "ops/cuda/split_values.cuh"
#include "ops/cuda/split_waves.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

inline constexpr int kSplitHeads = Absorbed::kForm.heads, kSplitPairs = Absorbed::kForm.pairs;
inline constexpr int kSplitTerms = Absorbed::kForm.terms;
inline constexpr int kFastRows = Absorbed::kForm.fast_rows();
inline constexpr int kSlowRows = Absorbed::kForm.slow_rows();
using AbsorbedScratch = SplitScratch<kSplitHeads>;

// ---- Products to scores.

// Scores of head c at the thread's two tokens, before the scales of tokens and heads. phi and
// slow_scales: shared addresses of this lane's two terms, of its first token and of head 0.
template <int kBits>
__device__ inline void SumWaves(const RowSums<Absorbed, kBits>& sums,
                                const Waves<kSplitPairs>& waves, uint32_t phi, uint32_t slow_scales,
                                int c, float (&scores)[2]) {
  const float2 phi0 = LoadFloat2(phi), phi1 = LoadFloat2(phi + 8 * kSplitTerms * 4);
  float part[kSplitHeads][2];
#pragma unroll
  for (int h = 0; h < kSplitHeads; ++h) {
    const float2 scale = LoadFloat2(slow_scales + h * kSplitTerms * 4);
    const auto* slow = sums.slow + h * 4;
    float x = phi0.x * scale.x * static_cast<float>(slow[0]);
    float y = phi1.x * scale.x * static_cast<float>(slow[2]);
    x += phi0.y * scale.y * static_cast<float>(slow[1]);
    y += phi1.y * scale.y * static_cast<float>(slow[3]);
#pragma unroll
    for (int k = 0; k < Waves<kSplitPairs>::kOwn; ++k) {
      const auto* fast = sums.fast + (h * Waves<kSplitPairs>::kOwn + k) * 4;
      x += waves.at[k][0].x * static_cast<float>(fast[0]);
      y += waves.at[k][1].x * static_cast<float>(fast[2]);
      x += waves.at[k][0].y * static_cast<float>(fast[1]);
      y += waves.at[k][1].y * static_cast<float>(fast[3]);
    }
    part[h][0] = x;
    part[h][1] = y;
  }
  // Four lanes hold parts of four heads; each ends with one head.
  const bool upper = c & 2, odd = c & 1;
  float pair[2][2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float keep = upper ? part[h + 2][r] : part[h][r];
      const float send = upper ? part[h][r] : part[h + 2][r];
      pair[h][r] = keep + __shfl_xor_sync(~0u, send, 2);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float keep = odd ? pair[1][r] : pair[0][r], send = odd ? pair[0][r] : pair[1][r];
    scores[r] = keep + __shfl_xor_sync(~0u, send, 1);
  }
}

// A thread's softmax: of head c over its tokens. Weights are 2^(score - reference), times the scale
// of the token's values over `unit`, times kUnitWeight, in fp16; both references change seldom.
struct SplitSoftmax {
  float reference = -kInfinity, unit = 0;
  float to_weight = 0;  // kUnitWeight / unit
  float sum = 0, zeros = 0;
};

// New references of the group from this tile; earlier sums are made to fit.
template <int kTiles>
__device__ inline void Rescale(SplitSoftmax& softmax, const float (&scores)[2],
                               const float (&value_scales)[2], int group, int warp, int lane,
                               AbsorbedScratch& scratch, float (&sums)[kTiles][4]) {
  float most = fmaxf(scores[0], scores[1]), scale = fmaxf(value_scales[0], value_scales[1]);
#pragma unroll
  for (int mask = 4; mask <= 16; mask *= 2) {
    most = fmaxf(most, __shfl_xor_sync(~0u, most, mask));
    scale = fmaxf(scale, __shfl_xor_sync(~0u, scale, mask));
  }
  if (lane < kSplitHeads) scratch.max[group][warp][lane] = most;
  if (lane == 0) scratch.value_scale[group][warp] = scale;
  SyncNamed<kGroupThreads>(1 + group);
  const int c = lane % 4;
  float reference = softmax.reference, unit = softmax.unit;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    reference = fmaxf(reference, scratch.max[group][w][c]);
    unit = fmaxf(unit, scratch.value_scale[group][w]);
  }
  if (unit == 0) unit = 1;
  const float turned = Exp2(softmax.reference - Shift(reference));
  const float factor = turned * (softmax.unit / unit);
  softmax = {reference, unit, kUnitWeight / unit, softmax.sum * turned, softmax.zeros * factor};
  // Columns of the sums are heads 2 c and 2 c + 1, and the same again.
  const float even = __shfl_sync(~0u, factor, (lane & ~3) + (2 * c) % 4);
  const float odd = __shfl_sync(~0u, factor, (lane & ~3) + (2 * c + 1) % 4);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    sums[i][0] *= even;
    sums[i][1] *= odd;
    sums[i][2] *= even;
    sums[i][3] *= odd;
  }
}

// The scales of the two tokens' values over the unit, times kUnitWeight.
__device__ inline void Weigh(const SplitSoftmax& softmax, const float (&scores)[2],
                             const float (&value_scales)[2], float (&weights)[2],
                             __half (&rounded)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    weights[r] = Exp2(scores[r] - softmax.reference);
    rounded[r] = __float2half_rn(weights[r] * (value_scales[r] * softmax.to_weight));
  }
}

__device__ inline void StoreWeights(uint32_t shared, const __half (&weights)[2]) {
  asm volatile("st.shared.u16 [%0], %1;\nst.shared.u16 [%0 + 16], %2;\n" ::"r"(shared),
               "h"(__half_as_ushort(weights[0])), "h"(__half_as_ushort(weights[1]))
               : "memory");
}

// ---- The end of a share.

template <int kBits, int kWidth>
__device__ void StoreShare(const SplitArguments& args, const SplitShare& share, int width,
                           const SplitSoftmax& softmax, const ValueShare<kBits, kWidth>& values,
                           int group, int warp, int lane,
                           const float (&sums)[ValueShare<kBits, kWidth>::kTiles][4],
                           AbsorbedScratch& scratch, float* out) {
  constexpr int kTiles = WordTiles(kBits), kUnits = ValueShare<kBits, kWidth>::kUnits;
  constexpr int kParts = ValueShare<kBits, kWidth>::kParts;
  const int c = lane % 4, g = lane / 4, plane = PlaneBytes(kBits, width);
  float sum = softmax.sum, zeros = softmax.zeros;
#pragma unroll
  for (int mask = 4; mask <= 16; mask *= 2) {
    sum += __shfl_xor_sync(~0u, sum, mask);
    zeros += __shfl_xor_sync(~0u, zeros, mask);
  }
  if (lane < kSplitHeads) {
    scratch.sums[group][warp][lane] = sum;
    scratch.zeros[group][warp][lane] = zeros;
    if (warp == 0) scratch.reference[group][lane] = softmax.reference;
    if (warp == 0 && lane == 0) scratch.unit[group] = softmax.unit;
  }
  SyncNamed<kConsumers * kGroupThreads>(kConsumers + 1);  // the ring has been read
  float* own = out + (group * kParts + values.part) * kSplitHeads * width;
  if (c < kSplitHeads / 2) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int byte = (values.first_set + 4 * u) * 32 + 4 * g;
      if (byte >= plane) break;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int upper = 0; upper < 2; ++upper) {
          float factor;
          const int latent = ValueLatent<kBits>(plane, byte, t, upper, factor);
          const float* x = sums[u * kTiles + t] + 2 * upper;
          own[2 * c * width + latent] = x[0] * factor;
          own[(2 * c + 1) * width + latent] = x[1] * factor;
        }
      }
    }
  }
  SyncNamed<kConsumers * kGroupThreads>(kConsumers + 1);
  const int t = static_cast<int>(threadIdx.x) - kGroupThreads;
  const int max_width = args.decode.layer.v.max_width;
  for (int h = 0; h < kSplitHeads; ++h) {
    const int64_t index = PartialIndexOf(args, share, h);
    float max = -kInfinity, total = 0;
    for (int i = 0; i < kConsumers; ++i) max = fmaxf(max, scratch.reference[i][h]);
    float scale[kConsumers], zero[kConsumers];
    for (int i = 0; i < kConsumers; ++i) {
      const float weight = Exp2(scratch.reference[i][h] - max);
      scale[i] = weight * scratch.unit[i] / kUnitWeight;
      zero[i] = 0;
      for (int w = 0; w < 4; ++w) {
        total += weight * scratch.sums[i][w][h];
        zero[i] += scratch.zeros[i][w][h];
      }
    }
    if (t == 0) args.decode.partials.states[index] = {max, total};
    for (int column = t; column < width; column += kConsumers * kGroupThreads) {
      float value = 0;
      for (int i = 0; i < kConsumers; ++i) {
        float part = 0;
        for (int p = 0; p < kParts; ++p) {
          part += out[((i * kParts + p) * kSplitHeads + h) * width + column];
        }
        value += scale[i] * (part - zero[i]);
      }
      args.decode.partials.sums[index * max_width + column] = value;
    }
  }
}

// ---- A warpgroup's tiles.

// Zeros in the rows of a staged page from `valid` on, by a group.
__device__ inline void ClearRows(std::byte* page, int row_bytes, int valid, int thread) {
  for (int row = max(valid, 0); row < kTileTokens; ++row) {
    for (int at = thread * 16; at < row_bytes; at += kGroupThreads * 16) {
      *reinterpret_cast<uint4*>(page + StagedRow(row_bytes, row) + at) = {};
    }
  }
}

template <int kBits, int kChunks, int kWidth>
__device__ void ConsumeAbsorbed(const SplitArguments& args, const SplitShare& share,
                                std::byte* shared, AbsorbedScratch& scratch) {
  constexpr bool kCodes = kBits < 16;
  const AttentionView& layer = args.decode.layer;
  const SplitShared& at = args.plan.shared;
  SplitBarriers& bars = scratch.barriers;
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads - 1;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4,
            lane = static_cast<int>(threadIdx.x) % 32;
  const int c = lane % 4, row = warp * 16 + lane / 4;  // tokens row and row + 8 of a tile
  const int v_width = layer.v.pages[args.plan.page_of(share.unit)].width;
  const int v_row = RowBytes(kBits, v_width), v_plane = PlaneBytes(kBits, v_width);
  const KeyPlaces<kBits> keys(layer.k, layer.k.pages[args.plan.page_of(share.unit)].width, row);
  const ValueShare<kBits, kWidth> values(warp);
  const ValuePlaces places(v_row, values.part, ValueShare<kBits, kWidth>::kSteps, values.first_set,
                           lane);
  const bool symmetric = layer.v.symmetric;
  const auto& fast_scales =
      *reinterpret_cast<const FastScales*>(shared + at.fast + args.plan.steps * 32 * kFastRows);
  const uint32_t base = SharedAddress(shared);
  const uint32_t group_weights =
      base + at.weights + static_cast<uint32_t>(group * 2 * kSplitHeads * kWeightStride * 2);
  const uint32_t turns = base + at.weights + 2 * 2 * kSplitHeads * kWeightStride * 2;
  const uint32_t slow_bytes = static_cast<uint32_t>(args.plan.slow_bytes());
  const uint32_t phi_place = static_cast<uint32_t>(at.phi + (row * kSplitTerms + 2 * c) * 4);
  const uint32_t scale_place = static_cast<uint32_t>(args.plan.steps * 32 * kSlowRows + 2 * c * 4);
  const uint32_t value_scale = static_cast<uint32_t>(StagedScales(v_row) + row * 2);
  const uint32_t stored = static_cast<uint32_t>((c * kWeightStride + row) * 2);
  const uint32_t read =
      static_cast<uint32_t>(lane / 4 % kSplitHeads * kWeightStride * 2) + places.weight;
  const OperandB fast(base + at.fast, kFastRows);

  if (group == 0 && warp == 0) CopyFirstRows(args, share, shared, bars);
  float sums[1][ValueShare<kBits, kWidth>::kTiles][4] = {};
  SplitSoftmax softmax;
  Waves<kSplitPairs> waves;
  RingPlace place, slow;
  place.Advance(group, args.plan.stages);
  bars.fast.Wait(0);
  waves.Start(layer.rope, share.position + int64_t{share.begin + group} * kTileTokens + row, c,
              [&](int pair) { return fast_scales.pairs[pair]; });
  const float head_scale = fast_scales.heads[c];
  const int per_block = layer.split.block_tokens / kTileTokens;
  int left =
      (per_block - share.begin % per_block) / kConsumers;  // tiles of the block for the group
  bars.slow_full[0].Wait(0);
  uint32_t parity = 0;
  for (int tile = share.begin + group; tile < share.end; tile += kConsumers) {
    if (left == 0) {
      if (lane == 0) bars.slow_empty[slow.stage].Arrive();
      slow.Advance(1, 2);
      left = per_block / kConsumers;
      bars.slow_full[slow.stage].Wait(slow.phase);
    }
    --left;
    const uint32_t key_page = base + at.keys + static_cast<uint32_t>(place.stage * at.key_stage);
    const uint32_t slow_rows = base + at.slow + static_cast<uint32_t>(slow.stage) * slow_bytes;
    bars.key_full[place.stage].Wait(place.phase);
    float key_scales[2] = {head_scale, head_scale};
    uint32_t offsets[2] = {};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (kCodes) {
        const uint32_t scale = key_page + keys.scale + 16 * r;
        key_scales[r] *= LoadHalf(scale);
        offsets[r] = ZeroOffset<kBits>(LoadZero<kBits>(scale, row + 8 * r, keys.symmetric));
      }
    }
    float scores[2];
    {
      RowSums<Absorbed, kBits> products;
      MultiplyKeys<Absorbed, kBits, kChunks>(key_page, fast, OperandB(slow_rows, kSlowRows), keys,
                                             c, offsets, products);
      SumWaves<kBits>(products, waves, key_page + phi_place, slow_rows + scale_place, c, scores);
    }
    __syncwarp();
    if (lane == 0) bars.key_empty[place.stage].Arrive();
    waves.Advance(turns, c);

    const uint32_t value_page =
        base + at.values + static_cast<uint32_t>(place.stage * at.value_stage);
    bars.value_full[place.stage].Wait(place.phase);
    float value_scales[2] = {1, 1}, value_zeros[2] = {0, 0};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool valid = tile * kTileTokens + row + 8 * r < share.length;
      scores[r] = valid ? scores[r] * key_scales[r] : -kInfinity;
      if constexpr (kCodes) {
        const uint32_t scale = value_page + value_scale + 16 * r;
        value_scales[r] = valid ? LoadHalf(scale) : 0;
        value_zeros[r] = static_cast<float>(LoadZero<kBits>(scale, row + 8 * r, symmetric));
      }
    }
    const uint32_t weights = group_weights + parity * (kSplitHeads * kWeightStride * 2);
    if constexpr (!kCodes) {  // weights of zero do not hide what is no number
      ClearRows(shared + at.values + place.stage * at.value_stage, v_row,
                share.length - tile * kTileTokens, warp * 32 + lane);
    }
    const bool beyond = fmaxf(scores[0], scores[1]) > softmax.reference + kRaise ||
                        fmaxf(value_scales[0], value_scales[1]) > 4 * softmax.unit;
    float exact[2];
    __half rounded[2];
    Weigh(softmax, scores, value_scales, exact, rounded);
    StoreWeights(weights + stored, rounded);
    if (SyncAny<kGroupThreads>(1 + group, beyond)) {
      Rescale(softmax, scores, value_scales, group, warp, lane, scratch, sums[0]);
      Weigh(softmax, scores, value_scales, exact, rounded);
      StoreWeights(weights + stored, rounded);
      SyncNamed<kGroupThreads>(1 + group);
    }
    softmax.sum += exact[0] + exact[1];
    softmax.zeros += __half2float(rounded[0]) * value_zeros[0];
    softmax.zeros += __half2float(rounded[1]) * value_zeros[1];
    SumLatents<kBits, kWidth, 1, 0>(value_page, weights + read, v_plane, values, places, lane,
                                    sums);
    __syncwarp();
    if (lane == 0) bars.value_empty[place.stage].Arrive();
    parity ^= 1;
    place.Advance(kConsumers, args.plan.stages);
  }
  StoreShare<kBits>(args, share, v_width, softmax, values, group, warp, lane, sums[0], scratch,
                    reinterpret_cast<float*>(shared + at.keys));
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
