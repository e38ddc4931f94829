// Where a share's partial results go.
#pragma once

#include "ops/cuda/softmax_state.cuh"
#include "ops/cuda/split_pages.cuh"

namespace palu::cuda {

inline constexpr float kUnitWeight = 16;  // a weight of one, where the scale is the reference
inline constexpr float kRaise = 8;        // log2 by which a score may exceed the reference

// The query head of a slot of a unit; none: -1.
__device__ inline int HeadOfSlot(const SplitArguments& args, int unit, int slot) {
  const SplitForm& form = args.plan.form;
  const int queries = args.decode.layer.heads_per_kv(), query = slot % form.queries;
  if (query >= queries) return -1;
  return (unit * form.heads + slot / form.queries) * queries + query;
}

// Among partial results, [count, heads, splits]; none: -1.
__device__ inline int64_t PartialIndexOf(const SplitArguments& args, const SplitShare& share,
                                         int slot) {
  const int head = HeadOfSlot(args, share.unit, slot);
  if (head < 0) return -1;
  return (int64_t{share.sequence} * args.decode.layer.heads + head) * args.plan.splits +
         share.split;
}

__device__ inline void StoreEmpty(const SplitArguments& args, const SplitShare& share) {
  const int slot = static_cast<int>(threadIdx.x);
  if (slot >= args.plan.form.slots()) return;
  const int64_t i = PartialIndexOf(args, share, slot);
  if (i >= 0) args.decode.partials.states[i] = {-kInfinity, 0};
}

}  // namespace palu::cuda
