// Decode attention by the frequency split, several queries per KV head: the fast pairs of keys are
// rebuilt, rotated in registers and become, rounded to fp16, operands of a product with the
// queries. The slow rows' products, times their waves, are summed by the same instruction.
#pragma once

#include <cstddef>

#include "ops/cuda/softmax_state.cuh"
#include "ops/cuda/split_end.cuh"
#include "ops/cuda/split_values.cuh"
#include "ops/cuda/split_waves.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

inline constexpr int kSlots = 16;    // query heads of a unit
inline constexpr int kOwnSlots = 4;  // of a thread: 2 c, 2 c + 1, 8 + 2 c, 9 + 2 c
using GroupedScratch = SplitScratch<kSlots>;

__device__ inline int OwnSlot(int i, int c) { return i / 2 * 8 + 2 * c + i % 2; }

__device__ inline uint32_t Halves(float low, float high) {
  const __half2 x = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(x);
}
__device__ inline void Clear(float (&scores)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
}
__device__ inline Fragment LoadFragment(uint32_t shared) {
  Fragment f;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];\n" : "=r"(f.x), "=r"(f.y) : "r"(shared));
  return f;
}

// Scores of 16 slots at a warp's 16 tokens, before the scales of tokens and slots: scores[t] as a
// product's result over slots 8 t and on. `phi`: shared address of the waves of the thread's first
// token; `queries`, `slow_scales`: of this lane's first fragment.
template <int kHeads, int kBits>
__device__ inline void ScoreKeys(const RowSums<Grouped<kHeads>, kBits>& sums,
                                 const Waves<Grouped<kHeads>::kForm.pairs>& waves, uint32_t phi,
                                 uint32_t queries, uint32_t slow_scales, int c,
                                 float (&scores)[2][4]) {
  constexpr SplitForm kForm = Grouped<kHeads>::kForm;
  constexpr int kTilesOfHead = kForm.pairs / 4, kTerms = kForm.terms;
  constexpr int kSteps = kFastSteps<kHeads>;
  constexpr uint32_t kFragments = 32 * sizeof(Fragment);
  Clear(scores);
#pragma unroll
  for (int s = 0; s < kForm.fast_rows() / 16; ++s) {
    uint32_t a[4];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int tile = 2 * s + j;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = static_cast<float>(sums.fast[4 * tile + 2 * r]);
        const float y = static_cast<float>(sums.fast[4 * tile + 2 * r + 1]);
        const float2 w = waves.at[tile % kTilesOfHead][r];
        a[2 * j + r] = Halves(x * w.x - y * w.y, x * w.y + y * w.x);
      }
    }
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int at = s - FirstFastStep<kHeads>(t);
      if (at < 0 || at >= kSteps) continue;
      const Fragment b =
          LoadFragment(queries + static_cast<uint32_t>(t * kSteps + at) * kFragments);
      Mma<__half>(scores[t], a, b.x, b.y);
    }
  }
  // Columns 8 i + 2 c and the next of tile i are terms 2 u, 2 u + 1 of a slot, u = (i + c) mod 3.
  static_assert(kTerms == 6);
  float2 wave[3][2];
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const int u = (k + c) % 3;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      wave[k][r] = LoadFloat2(phi + static_cast<uint32_t>((8 * r * kTerms + 2 * u) * 4));
    }
  }
#pragma unroll
  for (int s = 0; s < kForm.slow_rows() / 16; ++s) {
    uint32_t a[4];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int tile = 2 * s + j;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 w = wave[tile % 3][r];
        a[2 * j + r] = Halves(w.x * static_cast<float>(sums.slow[4 * tile + 2 * r]),
                              w.y * static_cast<float>(sums.slow[4 * tile + 2 * r + 1]));
      }
    }
    const Fragment b = LoadFragment(slow_scales + static_cast<uint32_t>(s) * kFragments);
    Mma<__half>(scores[s / kSlowSteps], a, b.x, b.y);
  }
}

// What the key bias adds to scores over biases[slot], as scores. `fragments`: shared address of
// this lane's first Fragment of GroupedQueries::bias; `slow`: of its first word of
// GroupedSlowScales::bias; `phi`: of the waves of the thread's first token.
template <int kPairs, int kTerms>
__device__ inline void ScoreBias(const Waves<kPairs>& waves, uint32_t phi, uint32_t fragments,
                                 uint32_t slow, int c, float (&scores)[2][4]) {
  static_assert(kPairs / 4 == 2 * kBiasSteps - 1 && kTerms == 6);
  constexpr uint32_t kPart = 2 * kBiasSteps * 32 * sizeof(Fragment), kSlowPart = 2 * 32 * 4;
  Clear(scores);
#pragma unroll
  for (int s = 0; s < kBiasSteps; ++s) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int k = 2 * s + i / 2, r = i % 2;
      float2 x = {0, 0};
      if (k < kPairs / 4) x = waves.at[k < kPairs / 4 ? k : 0][r];
      if (k == kPairs / 4 && c < kTerms / 2) {
        x = LoadFloat2(phi + static_cast<uint32_t>((8 * r * kTerms + 2 * c) * 4));
      }
      const __half2 rounded = __floats2half2_rn(x.x, x.y);
      const float2 back = __half22float2(rounded);
      high[i] = reinterpret_cast<const uint32_t&>(rounded);
      low[i] = Halves(x.x - back.x, x.y - back.y);
    }
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const uint32_t at = fragments + static_cast<uint32_t>((t * kBiasSteps + s) * 32 * 8);
      Fragment b = LoadFragment(at), b_low = LoadFragment(at + kPart);
      if (s == kBiasSteps - 1) {
        b.y = Load4(slow + static_cast<uint32_t>(t * 32 * 4));
        b_low.y = Load4(slow + static_cast<uint32_t>(t * 32 * 4) + kSlowPart);
      }
      Mma<__half>(scores[t], high, b.x, b.y);
      Mma<__half>(scores[t], low, b.x, b.y);
      Mma<__half>(scores[t], high, b_low.x, b_low.y);
    }
  }
}

// A thread's softmax, of its own slots over its tokens. Weights are 2^(score - reference), times
// the scale of the token's values over `unit`, times kUnitWeight, in fp16; references change
// seldom.
struct GroupedSoftmax {
  float reference[kOwnSlots] = {-kInfinity, -kInfinity, -kInfinity, -kInfinity};
  float sum[kOwnSlots] = {}, zeros[kOwnSlots] = {};
  float unit = 0, to_weight = 0;  // kUnitWeight / unit
};

// New references of the group from this tile; earlier sums are made to fit. scores: of own slot i
// at token r: [r][i].
template <int kTiles>
__device__ inline void Rescale(GroupedSoftmax& softmax, const float (&scores)[2][kOwnSlots],
                               const float (&value_scales)[2], int group, int warp, int lane,
                               GroupedScratch& scratch, float (&sums)[2][kTiles][4]) {
  const int c = lane % 4;
  float scale = fmaxf(value_scales[0], value_scales[1]);
#pragma unroll
  for (int mask = 4; mask <= 16; mask *= 2) {
    scale = fmaxf(scale, __shfl_xor_sync(~0u, scale, mask));
  }
  if (lane == 0) scratch.value_scale[group][warp] = scale;
#pragma unroll
  for (int i = 0; i < kOwnSlots; ++i) {
    float most = fmaxf(scores[0][i], scores[1][i]);
#pragma unroll
    for (int mask = 4; mask <= 16; mask *= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, mask));
    }
    if (lane < 4) scratch.max[group][warp][OwnSlot(i, c)] = most;
  }
  SyncNamed<kGroupThreads>(1 + group);
  float unit = softmax.unit;
#pragma unroll
  for (int w = 0; w < 4; ++w) unit = fmaxf(unit, scratch.value_scale[group][w]);
  if (unit == 0) unit = 1;
#pragma unroll
  for (int i = 0; i < kOwnSlots; ++i) {
    float reference = softmax.reference[i];
#pragma unroll
    for (int w = 0; w < 4; ++w) reference = fmaxf(reference, scratch.max[group][w][OwnSlot(i, c)]);
    const float turned = Exp2(softmax.reference[i] - Shift(reference));
    const float factor = turned * (softmax.unit / unit);
    softmax.reference[i] = reference;
    softmax.sum[i] *= turned;
    softmax.zeros[i] *= factor;
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {  // columns of the sums are the thread's slots
      sums[i / 2][k][i % 2] *= factor;
      sums[i / 2][k][2 + i % 2] *= factor;
    }
  }
  softmax.unit = unit;
  softmax.to_weight = kUnitWeight / unit;
}

// Weights of own slots at token r, exact, and for the values, rounded, into shared memory: `stored`
// is the address of the token's weight of slot 2 c.
__device__ inline void Weigh(const GroupedSoftmax& softmax, const float (&scores)[2][kOwnSlots],
                             const float (&value_scales)[2], uint32_t stored,
                             float (&exact)[2][kOwnSlots], float (&rounded)[2][kOwnSlots]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float scale = value_scales[r] * softmax.to_weight;
#pragma unroll
    for (int i = 0; i < kOwnSlots; ++i) {
      exact[r][i] = Exp2(scores[r][i] - softmax.reference[i]);
      const __half weight = __float2half_rn(exact[r][i] * scale);
      rounded[r][i] = __half2float(weight);
      asm volatile("st.shared.u16 [%0], %1;\n" ::"r"(
                       stored + static_cast<uint32_t>((OwnSlot(i, 0) * kWeightStride + 8 * r) * 2)),
                   "h"(__half_as_ushort(weight))
                   : "memory");
    }
  }
}

// By all consumers. `out`: shared memory of [parts, slots, width] floats, where the ring was.
template <int kBits, int kWidth>
__device__ void StoreShare(const SplitArguments& args, const SplitShare& share, int width,
                           const GroupedSoftmax& softmax, const ValueShare<kBits, kWidth>& values,
                           int group, int warp, int lane,
                           const float (&sums)[2][ValueShare<kBits, kWidth>::kTiles][4],
                           GroupedScratch& scratch, float* out) {
  constexpr int kTiles = WordTiles(kBits), kUnits = ValueShare<kBits, kWidth>::kUnits;
  constexpr int kParts = ValueShare<kBits, kWidth>::kParts;
  constexpr int kThreads = kConsumers * kGroupThreads;
  const int c = lane % 4, g = lane / 4, plane = PlaneBytes(kBits, width);
#pragma unroll
  for (int i = 0; i < kOwnSlots; ++i) {
    float sum = softmax.sum[i], zeros = softmax.zeros[i];
#pragma unroll
    for (int mask = 4; mask <= 16; mask *= 2) {
      sum += __shfl_xor_sync(~0u, sum, mask);
      zeros += __shfl_xor_sync(~0u, zeros, mask);
    }
    if (lane < 4) {
      const int slot = OwnSlot(i, c);
      scratch.sums[group][warp][slot] = sum;
      scratch.zeros[group][warp][slot] = zeros;
      if (warp == 0) scratch.reference[group][slot] = softmax.reference[i];
    }
  }
  if (warp == 0 && lane == 0) scratch.unit[group] = softmax.unit;
  SyncNamed<kThreads>(kConsumers + 1);  // the ring has been read

  // What a group's sums of a slot count.
  const auto factor_of = [&](int from, int slot) {
    const float max = fmaxf(scratch.reference[0][slot], scratch.reference[1][slot]);
    return Exp2(scratch.reference[from][slot] - Shift(max)) * scratch.unit[from] / kUnitWeight;
  };
  float* own = out + values.part * kSlots * width;
  for (int turn = 0; turn < kConsumers; ++turn) {  // one group after the other, at the same places
    if (group == turn) {
#pragma unroll
      for (int i = 0; i < kOwnSlots; ++i) {
        const int slot = OwnSlot(i, c);
        const float scale = factor_of(group, slot);
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
              const float x = sums[i / 2][u * kTiles + t][2 * upper + i % 2] * (factor * scale);
              float& to = own[slot * width + latent];
              to = turn == 0 ? x : to + x;
            }
          }
        }
      }
    }
    SyncNamed<kThreads>(kConsumers + 1);
  }
  const int t = static_cast<int>(threadIdx.x) - kGroupThreads;
  const int max_width = args.decode.layer.v.max_width;
  static_assert(kThreads == 16 * kSlots);
  const int slot = t / 16;
  const int64_t index = PartialIndexOf(args, share, slot);
  if (index < 0) return;
  const float max = fmaxf(scratch.reference[0][slot], scratch.reference[1][slot]);
  float total = 0, zero = 0;
#pragma unroll
  for (int i = 0; i < kConsumers; ++i) {
    const float weight = Exp2(scratch.reference[i][slot] - Shift(max)), scale = factor_of(i, slot);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      total += weight * scratch.sums[i][w][slot];
      zero += scale * scratch.zeros[i][w][slot];
    }
  }
  if (t % 16 == 0) args.decode.partials.states[index] = {max, total};
  for (int column = t % 16 * 4; column < width; column += 64) {
    float4 value = {-zero, -zero, -zero, -zero};
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const float4 x = *reinterpret_cast<const float4*>(out + (p * kSlots + slot) * width + column);
      value = {value.x + x.x, value.y + x.y, value.z + x.z, value.w + x.w};
    }
    *reinterpret_cast<float4*>(args.decode.partials.sums + index * max_width + column) = value;
  }
}

template <int kHeads, int kBits, int kChunks, int kWidth>
__device__ void ConsumeGrouped(const SplitArguments& args, const SplitShare& share,
                               std::byte* shared, GroupedScratch& scratch) {
  using Form = Grouped<kHeads>;
  constexpr SplitForm kForm = Form::kForm;
  constexpr int kFastRows = kForm.fast_rows(), kSlowRows = kForm.slow_rows();
  constexpr uint32_t kWeightBytes = kSlots * kWeightStride * 2;
  const AttentionView& layer = args.decode.layer;
  const SplitShared& at = args.plan.shared;
  SplitBarriers& bars = scratch.barriers;
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads - 1;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4,
            lane = static_cast<int>(threadIdx.x) % 32;
  const int c = lane % 4, row = warp * 16 + lane / 4;  // tokens row and row + 8 of a tile
  const int page = args.plan.page_of(share.unit);
  const int v_width = layer.v.pages[page].width;
  const int v_row = RowBytes(kBits, v_width), v_plane = PlaneBytes(kBits, v_width);
  const KeyPlaces<kBits> keys(layer.k, layer.k.pages[page].width, row);
  const ValueShare<kBits, kWidth> values(warp);
  const ValuePlaces places(v_row, values.part, ValueShare<kBits, kWidth>::kSteps, values.first_set,
                           lane);
  const bool symmetric = layer.v.symmetric;
  const uint32_t base = SharedAddress(shared);
  const uint32_t fast_row_bytes = static_cast<uint32_t>(args.plan.steps * 32 * kFastRows);
  const uint32_t queries = base + at.fast + fast_row_bytes + static_cast<uint32_t>(lane) * 8;
  const auto& query_scales =
      *reinterpret_cast<const GroupedQueries<kHeads>*>(shared + at.fast + fast_row_bytes);
  const uint32_t head_scales = SharedAddress(query_scales.heads + 2 * c);
  const uint32_t group_weights =
      base + at.weights + static_cast<uint32_t>(group) * 2 * kWeightBytes;
  const uint32_t turns = base + at.weights + kConsumers * 2 * kWeightBytes;
  const uint32_t slow_bytes = static_cast<uint32_t>(args.plan.slow_bytes());
  const uint32_t slow_scales =
      static_cast<uint32_t>(args.plan.steps * 32 * kSlowRows) + static_cast<uint32_t>(lane) * 8;
  const uint32_t slow_bias =
      static_cast<uint32_t>(args.plan.steps * 32 * kSlowRows +
                            static_cast<int>(offsetof(GroupedSlowScales, bias)) + lane * 4);
  const bool has_bias = layer.k.bias != nullptr;
  const uint32_t phi_place = static_cast<uint32_t>(at.phi + row * kForm.terms * 4);
  const uint32_t value_scale = static_cast<uint32_t>(StagedScales(v_row) + row * 2);
  const uint32_t stored = static_cast<uint32_t>((2 * c * kWeightStride + row) * 2);
  const uint32_t read = static_cast<uint32_t>(lane / 4 * kWeightStride * 2) + places.weight;
  const OperandB fast(base + at.fast, kFastRows);

  if (group == 0 && warp == 0) CopyFirstRows(args, share, shared, bars);
  float sums[2][ValueShare<kBits, kWidth>::kTiles][4] = {};
  GroupedSoftmax softmax;
  Waves<kForm.pairs> waves;
  RingPlace place, slow;
  place.Advance(group, args.plan.stages);
  waves.Start(layer.rope, share.position + int64_t{share.begin + group} * kTileTokens + row, c,
              [](int) { return kKeyDown; });
  bars.fast.Wait(0);
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
    float key_scales[2];
    uint32_t offsets[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t scale = key_page + keys.scale + 16 * r;
      key_scales[r] = LoadHalf(scale);
      offsets[r] = ZeroOffset<kBits>(LoadZero<kBits>(scale, row + 8 * r, keys.symmetric));
    }
    float products[2][4];
    {
      RowSums<Form, kBits> sums_of_rows;
      MultiplyKeys<Form, kBits, kChunks>(key_page, fast, OperandB(slow_rows, kSlowRows), keys, c,
                                         offsets, sums_of_rows);
      ScoreKeys<kHeads, kBits>(sums_of_rows, waves, key_page + phi_place, queries,
                               slow_rows + slow_scales, c, products);
    }
    const float2 heads[2] = {LoadFloat2(head_scales), LoadFloat2(head_scales + 32)};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      products[i / 4][i % 4] *=
          key_scales[i % 4 / 2] * (i % 2 == 0 ? heads[i / 4].x : heads[i / 4].y);
    }
    if (has_bias) {
      float biases[2][4];
      ScoreBias<kForm.pairs, kForm.terms>(waves, key_page + phi_place,
                                          queries + offsetof(GroupedQueries<kHeads>, bias),
                                          slow_rows + slow_bias, c, biases);
      const uint32_t at = head_scales + kSlots * 4;
      const float2 scale[2] = {LoadFloat2(at), LoadFloat2(at + 32)};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        products[i / 4][i % 4] +=
            biases[i / 4][i % 4] * (i % 2 == 0 ? scale[i / 4].x : scale[i / 4].y);
      }
    }
    __syncwarp();
    if (lane == 0) bars.key_empty[place.stage].Arrive();
    waves.Advance(turns, c);

    const uint32_t value_page =
        base + at.values + static_cast<uint32_t>(place.stage * at.value_stage);
    bars.value_full[place.stage].Wait(place.phase);
    float scores[2][kOwnSlots], value_scales[2], value_zeros[2];
    bool beyond = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool valid = tile * kTileTokens + row + 8 * r < share.length;
      const uint32_t scale = value_page + value_scale + 16 * r;
      value_scales[r] = valid ? LoadHalf(scale) : 0;
      value_zeros[r] = static_cast<float>(LoadZero<kBits>(scale, row + 8 * r, symmetric));
      beyond |= value_scales[r] > 4 * softmax.unit;
#pragma unroll
      for (int i = 0; i < kOwnSlots; ++i) {
        scores[r][i] = valid ? products[i / 2][2 * r + i % 2] : -kInfinity;
        beyond |= scores[r][i] > softmax.reference[i] + kRaise;
      }
    }
    const uint32_t weights = group_weights + parity * kWeightBytes;
    float exact[2][kOwnSlots], rounded[2][kOwnSlots];
    Weigh(softmax, scores, value_scales, weights + stored, exact, rounded);
    if (SyncAny<kGroupThreads>(1 + group, beyond)) {
      Rescale(softmax, scores, value_scales, group, warp, lane, scratch, sums);
      Weigh(softmax, scores, value_scales, weights + stored, exact, rounded);
      SyncNamed<kGroupThreads>(1 + group);
    }
#pragma unroll
    for (int i = 0; i < kOwnSlots; ++i) {
      softmax.sum[i] += exact[0][i] + exact[1][i];
      softmax.zeros[i] += rounded[0][i] * value_zeros[0];
      softmax.zeros[i] += rounded[1][i] * value_zeros[1];
    }
    SumLatents<kBits, kWidth, 2, 8 * kWeightStride * 2>(value_page, weights + read, v_plane, values,
                                                        places, lane, sums);
    __syncwarp();
    if (lane == 0) bars.value_empty[place.stage].Arrive();
    parity ^= 1;
    place.Advance(kConsumers, args.plan.stages);
  }
  StoreShare<kBits, kWidth>(args, share, v_width, softmax, values, group, warp, lane, sums, scratch,
                            reinterpret_cast<float*>(shared + at.keys));
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
