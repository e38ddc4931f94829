// Where four latents of a row W go.
#pragma once

#include "ops/cuda/split_plan.h"

namespace palu::cuda {

// Four consecutive latents go to two places of two neighbouring slots each.
template <int kBits>
struct SlotPairs {
  int first, second;
  __host__ __device__ SlotPairs(int width, int latent)
      : first(RowSlot(kBits, width, latent)),
        second(RowSlot(kBits, width, latent + (kBits == 8 ? 1 : 2))) {}
  // Of the four elements, those that go to the first place; the others follow in order.
  template <class T>
  __device__ static void Order(T (&x)[4]) {
    if constexpr (kBits == 8) {
      const T t = x[1];
      x[1] = x[2];
      x[2] = t;
    }
  }
};

}  // namespace palu::cuda
