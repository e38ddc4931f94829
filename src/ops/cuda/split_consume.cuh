// The warpgroups of decode attention by the frequency split that work on pages: key groups make
// scores and weights of tiles in turn, the value group sums latents of all.
#pragma once

#include "ops/cuda/split_absorbed.cuh"
#include "ops/cuda/split_grouped.cuh"
#include "ops/cuda/split_values.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <class Form, int kBits, int kChunks, bool kRotary>
struct ScoresOfForm {
  using Type = GroupedScores<Form::kForm.heads, kBits, kChunks, kRotary>;
};
template <int kBits, int kChunks, bool kRotary>
struct ScoresOfForm<Absorbed, kBits, kChunks, kRotary> {
  using Type = AbsorbedScores<kBits, kChunks, kRotary>;
};

__device__ inline void SyncConsumers() { SyncNamed<kConsumerThreads>(kKeyGroups + 2); }

// Shared memory of a group's weights of every second of its tiles.
template <class Form>
__device__ inline uint32_t WeightsPlace(const SplitArguments& args, const std::byte* shared,
                                        int group, int buffer) {
  constexpr int kBytes = WeightBytes(Form::kForm);
  return SharedAddress(shared) +
         static_cast<uint32_t>(args.plan.shared.weights + (group * 2 + buffer) * kBytes);
}

// ---- Key groups.

template <class Form, int kBits, int kChunks, bool kRotary>
__device__ void ConsumeKeys(const SplitArguments& args, const SplitShare& share, std::byte* shared,
                            SplitScratch<Form::kForm.slots()>& scratch) {
  const AttentionView& layer = args.decode.layer;
  const SplitShared& at = args.plan.shared;
  SplitBarriers& bars = scratch.barriers;
  const int group = Uniform(static_cast<int>(threadIdx.x) / kGroupThreads);
  const int warp = Uniform(static_cast<int>(threadIdx.x) / 32 % 4),
            lane = static_cast<int>(threadIdx.x) % 32;
  const int c = lane % 4, row = warp * 16 + lane / 4;  // tokens row and row + 8 of a tile
  const int page = args.plan.page_of(share.unit);
  const KeyPlaces<kBits> keys(layer.k, layer.k.pages[page].width, row);
  const int v_row = RowBytes(kBits, layer.v.pages[page].width);
  const uint32_t value_scale = static_cast<uint32_t>(StagedScales(v_row) + row * 2);
  const bool symmetric = layer.v.symmetric;
  const uint32_t base = SharedAddress(shared);
  const uint32_t slow_bytes = static_cast<uint32_t>(args.plan.slow_bytes());
  const uint32_t stored =
      WeightsPlace<Form>(args, shared, group, 0) +
      static_cast<uint32_t>(WeightPlace(WeightColumns(Form::kForm), OwnSlot<Form>(0, c), row));

  typename ScoresOfForm<Form, kBits, kChunks, kRotary>::Type scores_of(args, shared, row, lane);
  scores_of.Start(layer.rope, share.position + int64_t{share.begin + group} * kTileTokens + row,
                  bars);
  SplitSoftmax<Form> softmax;
  RingPlace place, slow, buffer;
  place.Advance(group, args.plan.stages);
  const int per_block = layer.split.block_tokens / kTileTokens;
  int next_block = (share.begin / per_block + 1) * per_block;  // its first tile
  bars.slow_full[0].Wait(0);
  for (int tile = share.begin + group; tile < share.end; tile += kKeyGroups) {
    for (; next_block <= tile; next_block += per_block) {
      if (lane == 0) bars.slow_empty[slow.stage].Arrive();
      slow.Advance(1, 2);
      bars.slow_full[slow.stage].Wait(slow.phase);
    }
    const uint32_t key_page = base + at.keys + static_cast<uint32_t>(place.stage * at.key_stage);
    const uint32_t slow_rows = base + at.slow + static_cast<uint32_t>(slow.stage) * slow_bytes;
    bars.key_full[place.stage].Wait(place.phase);
    float key_scales[2] = {1, 1};
    uint32_t offsets[2] = {};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (kBits < 16) {
        const uint32_t scale = key_page + keys.scale + 16 * r;
        key_scales[r] = LoadHalf(scale);
        offsets[r] = ZeroOffset<kBits>(LoadZero<kBits>(scale, row + 8 * r, keys.symmetric));
      }
    }
    float scores[2][kOwnSlots<Form>];
    scores_of.Score(key_page, slow_rows, keys, offsets, key_scales, scores);
    __syncwarp();
    if (lane == 0) bars.key_empty[place.stage].Arrive();
    scores_of.Advance();

    const uint32_t value_page =
        base + at.values + static_cast<uint32_t>(place.stage * at.value_stage);
    bars.value_full[place.stage].Wait(place.phase);
    float value_scales[2] = {1, 1}, value_zeros[2] = {0, 0};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool valid = tile * kTileTokens + row + 8 * r < share.length;
      if constexpr (kBits < 16) {
        const uint32_t scale = value_page + value_scale + 16 * r;
        value_scales[r] = valid ? LoadHalf(scale) : 0;
        value_zeros[r] = static_cast<float>(LoadZero<kBits>(scale, row + 8 * r, symmetric));
      }
#pragma unroll
      for (int i = 0; i < kOwnSlots<Form>; ++i) scores[r][i] = valid ? scores[r][i] : -kInfinity;
    }
    __syncwarp();
    if (lane == 0) bars.value_empty[place.stage].Arrive();

    bars.weights_empty[group][buffer.stage].Wait(buffer.phase ^ 1);
    const bool raise = SyncAny<kGroupThreads>(1 + group, softmax.Passed(scores, value_scales));
    if (raise) {
      Raise<Form>(softmax, scores, value_scales, group, warp, lane, scratch,
                  scratch.factors[group][buffer.stage]);
    }
    if (warp == 0 && lane == 0) scratch.raised[group][buffer.stage] = raise;
    Weigh<Form>(softmax, scores, value_scales, value_zeros,
                stored + static_cast<uint32_t>(buffer.stage * WeightBytes(Form::kForm)));
    FenceForProducts();
    __syncwarp();
    if (lane == 0) bars.weights_full[group][buffer.stage].Arrive();
    buffer.Advance(1, 2);
    place.Advance(kKeyGroups, args.plan.stages);
  }
  StoreSoftmax<Form>(softmax, group, warp, lane, scratch);
}

// ---- The value group.

// Zeros in the rows of a staged page from `valid` on, by the group.
__device__ inline void ClearRows(std::byte* page, int row_bytes, int valid, int thread) {
  for (int row = max(valid, 0); row < kTileTokens; ++row) {
    for (int at = thread * 16; at < row_bytes; at += kGroupThreads * 16) {
      *reinterpret_cast<uint4*>(page + StagedRow(row_bytes, row) + at) = {};
    }
  }
}

// The group's sums of latents, of the weights of each key group: [tile][2 column pairs ..], column
// 8 n + 2 c + j of upper row u at 4 n + 2 u + j.
template <class Form, int kBits, int kWidth>
struct ValueSums {
  static constexpr int kColumns = WeightColumns(Form::kForm);
  float of[kKeyGroups][ValueShare<kBits, kWidth>::kTiles][kColumns / 2];
};

template <class Form, int kBits, int kWidth>
__device__ inline void SumValues(const SplitArguments& args, const SplitShare& share,
                                 std::byte* shared, const ValueShare<kBits, kWidth>& values,
                                 SplitScratch<Form::kForm.slots()>& scratch,
                                 ValueSums<Form, kBits, kWidth>& sums) {
  using Share = ValueShare<kBits, kWidth>;
  constexpr int kColumns = WeightColumns(Form::kForm);
  const SplitShared& at = args.plan.shared;
  SplitBarriers& bars = scratch.barriers;
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads, lane = thread % 32;
  const int width = args.decode.layer.v.pages[args.plan.page_of(share.unit)].width;
  const int row_bytes = RowBytes(kBits, width), plane = PlaneBytes(kBits, width);
  const ValuePlaces places(row_bytes, values.first_set, lane);
  const uint32_t base = SharedAddress(shared);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(sums) / 4); ++i) (&sums.of[0][0][0])[i] = 0;
  RingPlace place, buffer;
  for (int first = share.begin; first < share.end; first += kKeyGroups) {
#pragma unroll
    for (int group = 0; group < kKeyGroups; ++group) {
      const int tile = first + group;
      if (tile >= share.end) break;
      bars.value_full[place.stage].Wait(place.phase);
      bars.weights_full[group][buffer.stage].Wait(buffer.phase);
      if constexpr (kBits == 16) {  // weights of zero do not hide what is no number
        if (const int valid = share.length - tile * kTileTokens; valid < kTileTokens) {
          ClearRows(shared + at.values + place.stage * at.value_stage, row_bytes, valid, thread);
          SyncNamed<kGroupThreads>(kKeyGroups + 1);
        }
      }
      if (scratch.raised[group][buffer.stage]) {
        const float* factors = scratch.factors[group][buffer.stage];
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const float factor = factors[(8 * n + 2 * (lane % 4) + j) % Form::kForm.slots()];
#pragma unroll
            for (int i = 0; i < Share::kTiles; ++i) {
              sums.of[group][i][4 * n + j] *= factor;
              sums.of[group][i][4 * n + 2 + j] *= factor;
            }
          }
        }
      }
      const uint32_t page = base + at.values + static_cast<uint32_t>(place.stage * at.value_stage);
      const OperandB weights(WeightsPlace<Form>(args, shared, group, buffer.stage), kColumns);
      SumLatents<kBits, kWidth, kColumns>(page, weights, plane, values, places, lane,
                                          sums.of[group]);
      __syncwarp();
      if (lane == 0) {
        bars.value_empty[place.stage].Arrive();
        bars.weights_empty[group][buffer.stage].Arrive();
      }
      place.Advance(1, args.plan.stages);
    }
    buffer.Advance(1, 2);
  }
}

// ---- The end of a share.

// What a group's sums of a slot count, given the largest reference.
template <int kSlots>
__device__ inline float GroupWeight(const SplitScratch<kSlots>& scratch, int group, int slot,
                                    float max) {
  return Exp2(scratch.reference[group][slot] - Shift(max));
}
template <class Form>
__device__ inline float LargestReference(const SplitScratch<Form::kForm.slots()>& scratch,
                                         int slot) {
  float max = scratch.reference[0][slot];
#pragma unroll
  for (int g = 1; g < kKeyGroups; ++g) max = fmaxf(max, scratch.reference[g][slot]);
  return max;
}

// The value group's sums of all groups, joined, into `out` [slots, width].
template <class Form, int kBits, int kWidth>
__device__ inline void JoinValues(const ValueShare<kBits, kWidth>& values, int width, int lane,
                                  const SplitScratch<Form::kForm.slots()>& scratch,
                                  const ValueSums<Form, kBits, kWidth>& sums, float* out) {
  using Share = ValueShare<kBits, kWidth>;
  constexpr int kSlots = Form::kForm.slots();
  const int c = lane % 4, g = lane / 4, plane = PlaneBytes(kBits, width);
  if (2 * c >= kSlots) return;  // columns that come again
#pragma unroll
  for (int n = 0; n < (kSlots + 7) / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int slot = 8 * n + 2 * c + j;
      const float max = LargestReference<Form>(scratch, slot);
      float scale[kKeyGroups], zero = 0;
#pragma unroll
      for (int from = 0; from < kKeyGroups; ++from) {
        scale[from] = GroupWeight(scratch, from, slot, max) * scratch.unit[from] / kUnitWeight;
        float zeros = 0;
#pragma unroll
        for (int w = 0; w < 4; ++w) zeros += scratch.zeros[from][w][slot];
        zero += scale[from] * zeros;
      }
#pragma unroll
      for (int u = 0; u < Share::kUnits; ++u) {
        const int byte = (values.first_set + 4 * u) * 32 + 4 * g;
        if (byte >= plane) break;
#pragma unroll
        for (int t = 0; t < Share::kUnitTiles; ++t) {
#pragma unroll
          for (int upper = 0; upper < 2; ++upper) {
            float factor;
            const int tile = values.part * Share::kUnitTiles + t;
            const int latent = ValueLatent<kBits>(plane, byte, tile, upper, factor);
            float sum = 0;
#pragma unroll
            for (int from = 0; from < kKeyGroups; ++from) {
              sum += scale[from] * sums.of[from][u * Share::kUnitTiles + t][4 * n + 2 * upper + j];
            }
            out[slot * width + latent] = factor * sum - zero;
          }
        }
      }
    }
  }
}

// The share's results, by all consumers.
template <class Form>
__device__ inline void StoreShare(const SplitArguments& args, const SplitShare& share,
                                  const SplitScratch<Form::kForm.slots()>& scratch,
                                  const float* out) {
  constexpr int kSlots = Form::kForm.slots(), kThreads = kConsumerThreads;
  const int t = static_cast<int>(threadIdx.x);
  const int width = args.decode.layer.v.pages[args.plan.page_of(share.unit)].width;
  if (t < kSlots) {
    const float max = LargestReference<Form>(scratch, t);
    float total = 0;
#pragma unroll
    for (int g = 0; g < kKeyGroups; ++g) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < 4; ++w) sum += scratch.sums[g][w][t];
      total += GroupWeight(scratch, g, t, max) * sum;
    }
    const int64_t index = PartialIndexOf(args, share, t);
    if (index >= 0) args.decode.partials.states[index] = {max, total};
  }
  for (int i = t; i < kSlots * width / 4; i += kThreads) {
    const int slot = i / (width / 4), column = i % (width / 4) * 4;
    const int64_t index = PartialIndexOf(args, share, slot);
    if (index < 0) continue;
    *reinterpret_cast<float4*>(args.decode.partials.sums + index * args.decode.layer.v.max_width +
                               column) =
        *reinterpret_cast<const float4*>(out + slot * width + column);
  }
}

// All that the value group does before the results are stored.
template <class Form, int kBits, int kWidth>
__device__ void ConsumeValues(const SplitArguments& args, const SplitShare& share,
                              std::byte* shared, SplitScratch<Form::kForm.slots()>& scratch) {
  const int warp = Uniform(static_cast<int>(threadIdx.x) / 32 % 4),
            lane = static_cast<int>(threadIdx.x) % 32;
  if (warp == 0) CopyFirstRows(args, share, shared, scratch.barriers);
  const ValueShare<kBits, kWidth> values(warp);
  ValueSums<Form, kBits, kWidth> sums;
  SumValues<Form, kBits, kWidth>(args, share, shared, values, scratch, sums);
  SyncConsumers();  // the ring has been read
  JoinValues<Form, kBits, kWidth>(
      values, args.decode.layer.v.pages[args.plan.page_of(share.unit)].width, lane, scratch, sums,
      reinterpret_cast<float*>(shared + args.plan.shared.keys));
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
