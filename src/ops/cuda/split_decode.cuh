// Decode attention by the frequency split (split_plan.h), on Hopper's warpgroup products.
//
// A thread block has one unit of one sequence and a contiguous share of its tiles of 64 tokens. Its
// first warpgroup copies pages into a ring; two others take every second tile each: codes of keys
// become operands in registers, their products with the rows W stay in registers and become scores
// there; weights go through shared memory to the product with the codes of values, of which each
// warp has some latents of all tokens.
#pragma once

#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/split_absorbed.cuh"
#include "ops/cuda/split_grouped.cuh"
#include "tensor/cuda/check.h"

namespace palu::cuda {

// grid: (splits, units, count).
template <class Form, int kBits, int kChunks, int kWidth>
__global__ void __launch_bounds__(kSplitThreads, 1)
    SplitDecode(const __grid_constant__ SplitArguments args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) std::byte shared[];
  const SequencesView& sequences = args.decode.sequences;
  SplitShare share;
  share.split = static_cast<int>(blockIdx.x);
  share.unit = static_cast<int>(blockIdx.y);
  share.sequence = static_cast<int>(blockIdx.z);
  share.length = sequences.lengths[share.sequence];
  share.position = sequences.first_positions[share.sequence];
  share.blocks = sequences.blocks + int64_t{share.sequence} * sequences.stride;
  // Shares are whole pairs of tiles, so that both groups meet every block of T tokens.
  const int tiles = (share.length + kTileTokens - 1) / kTileTokens, pairs = (tiles + 1) / 2;
  const int splits = args.plan.splits;
  share.begin = static_cast<int>(int64_t{pairs} * share.split / splits) * 2;
  share.end = min(static_cast<int>(int64_t{pairs} * (share.split + 1) / splits) * 2, tiles);
  LetNextKernelStart();
  if (share.begin >= share.end) return StoreEmpty(args, share);

  constexpr SplitForm kForm = Form::kForm;
  auto& scratch =
      *reinterpret_cast<SplitScratch<kForm.slots()>*>(shared + args.plan.shared.scratch);
  SplitBarriers& bars = scratch.barriers;
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) {
    bars.fast.Init(1);
    for (int i = 0; i < 2; ++i) {
      bars.slow_full[i].Init(1);
      bars.slow_empty[i].Init(kConsumers * 4);
    }
    for (int i = 0; i < args.plan.stages; ++i) {
      bars.key_full[i].Init(1);
      bars.value_full[i].Init(1);
      bars.key_empty[i].Init(4);
      bars.value_empty[i].Init(4);
    }
    FenceBarrierInit();
  }
  if (t < kForm.pairs) {  // what a group's next tile is turned by
    const double turns = kConsumers * kTileTokens * args.decode.layer.rope.turns[t];
    float x, y;
    sincospif(static_cast<float>(2 * (turns - rint(turns))), &y, &x);
    reinterpret_cast<float2*>(shared + args.plan.shared.weights +
                              kConsumers * 2 * kForm.slots() * kWeightStride * 2)[t] = {x, y};
  }
  __syncthreads();
  if (t < kGroupThreads) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;\n");
    if (t < 32) Produce<Form, kBits>(args, share, shared, bars);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;\n");
    if constexpr (kForm.grouped) {
      ConsumeGrouped<kForm.heads, kBits, kChunks, kWidth>(args, share, shared, scratch);
    } else {
      ConsumeAbsorbed<kBits, kChunks, kWidth>(args, share, shared, scratch);
    }
  }
#endif
}

template <class Form, int kBits, int kChunks, int kWidth>
void LaunchSplitInstance(const SplitArguments& args, cudaStream_t stream) {
  const auto kernel = SplitDecode<Form, kBits, kChunks, kWidth>;
  const int bytes = args.plan.shared.bytes;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "reserving shared memory");
  const dim3 grid(static_cast<unsigned>(args.plan.splits), static_cast<unsigned>(args.plan.units),
                  static_cast<unsigned>(args.decode.sequences.count));
  LaunchEarly(kernel, grid, kSplitThreads, static_cast<size_t>(bytes), stream, args);
}

template <class Form, int kBits, int kChunks>
void LaunchSplitWidth(const SplitArguments& args, cudaStream_t stream) {
  const int width = args.decode.layer.v.max_width;
  if (width <= 128) return LaunchSplitInstance<Form, kBits, kChunks, 128>(args, stream);
  if (width <= 256) return LaunchSplitInstance<Form, kBits, kChunks, 256>(args, stream);
  LaunchSplitInstance<Form, kBits, kChunks, 512>(args, stream);
}

template <class Form, int kBits>
void LaunchSplitDecodeOf(const SplitArguments& args, cudaStream_t stream) {
  const auto is = [&](int width) { return args.plan.chunks == Chunks(kBits, width); };
  if (is(128)) return LaunchSplitWidth<Form, kBits, Chunks(kBits, 128)>(args, stream);
  if (is(256)) return LaunchSplitWidth<Form, kBits, Chunks(kBits, 256)>(args, stream);
  if (is(384)) return LaunchSplitWidth<Form, kBits, Chunks(kBits, 384)>(args, stream);
  LaunchSplitWidth<Form, kBits, Chunks(kBits, 512)>(args, stream);
}

}  // namespace palu::cuda
