// Decode attention by the frequency split (split_plan.h), on Hopper's warpgroup products.
//
// A thread block has one unit of one sequence and a contiguous share of its tiles of 64 tokens. One
// warp copies pages into a ring. Key groups take tiles in turn: codes of keys become operands in
// registers, their products with the rows W stay in registers and become scores there. Weights go
// through shared memory to the value group, which multiplies codes of values with them: each of its
// warps has some latents of all tokens.
#pragma once

#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/split_consume.cuh"
#include "tensor/cuda/check.h"

namespace palu::cuda {

// Registers of a thread, multiples of 8: at launch, and what warpgroups take and leave of them.
template <class Form, int kBits, int kWidth>
struct SplitRegisters {
  static constexpr int kLaunched = 65536 / kSplitThreads / 8 * 8, kCopies = 32;
  static constexpr int kSums =
      kKeyGroups * ValueShare<kBits, kWidth>::kTiles * (WeightColumns(Form::kForm) / 2);
  static constexpr int kValues = kSums + 64;
  static constexpr int kKeys = (4 * kLaunched - kCopies - kValues) / kKeyGroups / 8 * 8;
};
static_assert(kSplitThreads == 4 * kGroupThreads);
template <int kRegisters, int kLaunched>
__device__ inline void ChangeRegisters() {
  if constexpr (kRegisters > kLaunched) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
  } else if constexpr (kRegisters < kLaunched) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
  }
}

// grid: (splits, units, count).
template <class Form, int kBits, int kChunks, int kWidth, bool kRotary>
__global__ void __launch_bounds__(kSplitThreads, 1)
    SplitDecode(const __grid_constant__ SplitArguments args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) std::byte shared[];
  const SequencesView& sequences = args.decode.sequences;
  SplitShare share;
  share.split = static_cast<int>(blockIdx.x);
  share.unit = static_cast<int>(blockIdx.y);
  share.sequence = static_cast<int>(blockIdx.z);
  share.length = Uniform(sequences.lengths[share.sequence]);
  share.position = sequences.first_positions[share.sequence];
  share.blocks = sequences.blocks + int64_t{share.sequence} * sequences.stride;
  const int tiles = (share.length + kTileTokens - 1) / kTileTokens, splits = args.plan.splits;
  share.begin = static_cast<int>(int64_t{tiles} * share.split / splits);
  share.end = static_cast<int>(int64_t{tiles} * (share.split + 1) / splits);
  LetNextKernelStart();
  if (share.begin >= share.end) return StoreEmpty(args, share);

  constexpr SplitForm kForm = Form::kForm;
  auto& scratch =
      *reinterpret_cast<SplitScratch<kForm.slots()>*>(shared + args.plan.shared.scratch);
  SplitBarriers& bars = scratch.barriers;
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) bars.Init(args.plan.stages);
  if (t < kForm.pairs) {  // what a group's next tile is turned by
    const double turns = kKeyGroups * kTileTokens * args.decode.layer.rope.turns[t];
    float x, y;
    sincospif(static_cast<float>(2 * (turns - rint(turns))), &y, &x);
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};\n" ::"r"(TurnsPlace<Form>(args, shared) +
                                                            static_cast<uint32_t>(t) * 8),
                 "f"(x), "f"(y)
                 : "memory");
  }
  __syncthreads();
  using Registers = SplitRegisters<Form, kBits, kWidth>;
  constexpr int kLaunched = Registers::kLaunched;
  const int group = Uniform(t / kGroupThreads);
  if (group > kKeyGroups) {
    ChangeRegisters<Registers::kCopies, kLaunched>();
    if (t < kConsumerThreads + 32) Produce<Form, kBits>(args, share, shared, bars);
    return;
  }
  if (group < kKeyGroups) {
    ChangeRegisters<Registers::kKeys, kLaunched>();
    ConsumeKeys<Form, kBits, kChunks, kRotary>(args, share, shared, scratch);
    SyncConsumers();
  } else {
    ChangeRegisters<Registers::kValues, kLaunched>();
    ConsumeValues<Form, kBits, kWidth>(args, share, shared, scratch);
  }
  SyncConsumers();
  StoreShare<Form>(args, share, scratch,
                   reinterpret_cast<const float*>(shared + args.plan.shared.keys));
#endif
}

template <class Form, int kBits, int kChunks, int kWidth>
void LaunchSplitInstance(const SplitArguments& args, cudaStream_t stream) {
  auto kernel = SplitDecode<Form, kBits, kChunks, kWidth, false>;
  if constexpr (IntegerRows(kBits)) {
    if (args.plan.rotary_basis) kernel = SplitDecode<Form, kBits, kChunks, kWidth, true>;
  }
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
