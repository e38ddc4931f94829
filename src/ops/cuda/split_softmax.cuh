// The softmax of a group of decode attention by the frequency split.
#pragma once

#include "ops/cuda/softmax_state.cuh"
#include "ops/cuda/split_end.cuh"
#include "ops/cuda/split_keys.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Slots whose scores a thread holds at its two tokens, and which: c is its lane's place in a row.
template <class Form>
inline constexpr int kOwnSlots = Form::kForm.slots() / 4;
template <class Form>
__device__ inline int OwnSlot(int i, int c) {
  return Form::kForm.grouped ? i / 2 * 8 + 2 * c + i % 2 : c;
}

// A thread's part: of its own slots over its tokens. Weights are 2^(score - reference), times the
// scale of the token's values over `unit`, times kUnitWeight, in fp16; references change seldom.
template <class Form>
struct SplitSoftmax {
  static constexpr int kOwn = kOwnSlots<Form>;
  float reference[kOwn], sum[kOwn] = {}, zeros[kOwn] = {};
  float unit = 0, to_weight = 0;  // kUnitWeight / unit

  __device__ SplitSoftmax() {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) reference[i] = -kInfinity;
  }
  // Whether a score ([token][own slot]) or a scale leaves what the references allow.
  __device__ bool Passed(const float (&scores)[2][kOwn], const float (&value_scales)[2]) const {
    bool passed = fmaxf(value_scales[0], value_scales[1]) > 4 * unit;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      passed |= fmaxf(scores[0][i], scores[1][i]) > reference[i] + kRaise;
    }
    return passed;
  }
};

// New references of the group from this tile. `factors` [slots]: what sums of values are multiplied
// by to fit them.
template <class Form>
__device__ inline void Raise(SplitSoftmax<Form>& softmax, const float (&scores)[2][kOwnSlots<Form>],
                             const float (&value_scales)[2], int group, int warp, int lane,
                             SplitScratch<Form::kForm.slots()>& scratch, float* factors) {
  const int c = lane % 4;
  float scale = fmaxf(value_scales[0], value_scales[1]);
#pragma unroll
  for (int mask = 4; mask <= 16; mask *= 2) {
    scale = fmaxf(scale, __shfl_xor_sync(~0u, scale, mask));
  }
  if (lane == 0) scratch.value_scale[group][warp] = scale;
#pragma unroll
  for (int i = 0; i < kOwnSlots<Form>; ++i) {
    float most = fmaxf(scores[0][i], scores[1][i]);
#pragma unroll
    for (int mask = 4; mask <= 16; mask *= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, mask));
    }
    if (lane < 4) scratch.max[group][warp][OwnSlot<Form>(i, c)] = most;
  }
  SyncNamed<kGroupThreads>(1 + group);
  float unit = softmax.unit;
#pragma unroll
  for (int w = 0; w < 4; ++w) unit = fmaxf(unit, scratch.value_scale[group][w]);
  if (unit == 0) unit = 1;
#pragma unroll
  for (int i = 0; i < kOwnSlots<Form>; ++i) {
    const int slot = OwnSlot<Form>(i, c);
    float reference = softmax.reference[i];
#pragma unroll
    for (int w = 0; w < 4; ++w) reference = fmaxf(reference, scratch.max[group][w][slot]);
    const float turned = Exp2(softmax.reference[i] - Shift(reference));
    const float factor = turned * (softmax.unit / unit);
    softmax.reference[i] = reference;
    softmax.sum[i] *= turned;
    softmax.zeros[i] *= factor;
    if (warp == 0 && lane < 4) factors[slot] = factor;
  }
  softmax.unit = unit;
  softmax.to_weight = kUnitWeight / unit;
}

// Adds the tile to the sums; its weights go to shared memory. `stored`: address of the weight of
// the thread's first token and slot OwnSlot(0, c) (WeightPlace).
template <class Form>
__device__ inline void Weigh(SplitSoftmax<Form>& softmax, const float (&scores)[2][kOwnSlots<Form>],
                             const float (&value_scales)[2], const float (&value_zeros)[2],
                             uint32_t stored) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float scale = value_scales[r] * softmax.to_weight;
#pragma unroll
    for (int i = 0; i < kOwnSlots<Form>; ++i) {
      const float exact = Exp2(scores[r][i] - softmax.reference[i]);
      const __half weight = __float2half_rn(exact * scale);
      constexpr int kColumns = WeightColumns(Form::kForm);
      const uint32_t to =
          stored + static_cast<uint32_t>(WeightPlace(kColumns, OwnSlot<Form>(i, 0), 8 * r));
      asm volatile("st.shared.u16 [%0], %1;\n" ::"r"(to), "h"(__half_as_ushort(weight)) : "memory");
      softmax.sum[i] += exact;
      softmax.zeros[i] += __half2float(weight) * value_zeros[r];
    }
  }
}

// What the end of a share needs of it.
template <class Form>
__device__ inline void StoreSoftmax(const SplitSoftmax<Form>& softmax, int group, int warp,
                                    int lane, SplitScratch<Form::kForm.slots()>& scratch) {
#pragma unroll
  for (int i = 0; i < kOwnSlots<Form>; ++i) {
    float sum = softmax.sum[i], zeros = softmax.zeros[i];
#pragma unroll
    for (int mask = 4; mask <= 16; mask *= 2) {
      sum += __shfl_xor_sync(~0u, sum, mask);
      zeros += __shfl_xor_sync(~0u, zeros, mask);
    }
    if (lane < 4) {
      const int slot = OwnSlot<Form>(i, lane);
      scratch.sums[group][warp][slot] = sum;
      scratch.zeros[group][warp][slot] = zeros;
      if (warp == 0) scratch.reference[group][slot] = softmax.reference[i];
    }
  }
  if (warp == 0 && lane == 0) scratch.unit[group] = softmax.unit;
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
