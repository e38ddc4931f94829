// Cosines and sines of the fast rotary pairs at the positions of a thread's tokens.
#pragma once

#include "ops/cuda/split_keys.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// At two tokens, eight apart, times a scale per pair. Lane c has pairs c, 4 + c, 8 + c, ...
template <int kPairs>
struct Waves {
  static constexpr int kOwn = kPairs / 4;
  static_assert(kPairs % 4 == 0);
  float2 at[kOwn][2];

  template <class Scale>
  __device__ void Start(const RopeView& rope, int64_t position, int c, const Scale& scale) {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int pair = 4 * k + c;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const double turns = static_cast<double>(position + 8 * r) * rope.turns[pair];
        float x, y;
        sincospif(static_cast<float>(2 * (turns - rint(turns))), &y, &x);
        at[k][r] = {x * scale(pair), y * scale(pair)};
      }
    }
  }
  // Turns by the angles of `steps` (shared address of [kPairs] float2).
  __device__ void Advance(uint32_t steps, int c) {
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const float2 turn = LoadFloat2(steps + (4 * k + c) * 8);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 x = at[k][r];
        at[k][r] = {x.x * turn.x - x.y * turn.y, x.y * turn.x + x.x * turn.y};
      }
    }
  }
};

// Shared address of what a key group's next tile is turned by, [pairs] float2: behind the weights.
template <class Form>
__device__ inline uint32_t TurnsPlace(const SplitArguments& args, const std::byte* shared) {
  constexpr int kWeights = kKeyGroups * 2 * WeightBytes(Form::kForm);
  return SharedAddress(shared) + static_cast<uint32_t>(args.plan.shared.weights + kWeights);
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
