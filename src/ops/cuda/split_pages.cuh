// Pages of latents on their way into shared memory, for decode attention by the frequency split:
// the ring that they arrive in and the warpgroup that copies them.
#pragma once

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/split_blocks.cuh"

namespace palu::cuda {

inline constexpr int kGroupThreads = 128;  // of a warpgroup
inline constexpr int kMaxStagesOfSplit = 6;
inline constexpr float kDenormal = 16777216.0f;  // a code as bits of an fp16 number is worth 2^-24

// Warpgroups: those that make scores, one that sums values, and one that copies.
inline constexpr int kConsumerThreads = (kKeyGroups + 1) * kGroupThreads;
inline constexpr int kSplitThreads = kConsumerThreads + kGroupThreads;

struct SplitBarriers {
  PhaseBarrier fast;
  PhaseBarrier slow_full[2], slow_empty[2];
  PhaseBarrier key_full[kMaxStagesOfSplit], key_empty[kMaxStagesOfSplit];
  PhaseBarrier value_full[kMaxStagesOfSplit], value_empty[kMaxStagesOfSplit];
  PhaseBarrier weights_full[kKeyGroups][2], weights_empty[kKeyGroups][2];

  __device__ void Init(int stages) {
    fast.Init(1);
    for (int i = 0; i < 2; ++i) {
      slow_full[i].Init(1);
      slow_empty[i].Init(kKeyGroups * 4);
      for (int g = 0; g < kKeyGroups; ++g) {
        weights_full[g][i].Init(4);
        weights_empty[g][i].Init(4);
      }
    }
    for (int i = 0; i < stages; ++i) {
      key_full[i].Init(1);
      value_full[i].Init(1);
      key_empty[i].Init(4);
      value_empty[i].Init(2 * 4);  // scales and zeros are read with the scores
    }
    FenceBarrierInit();
  }
};

// A ring's place and the parity of its phase.
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  // by: at most `stages`.
  __device__ void Advance(int by, int stages) {
    stage += by;
    if (stage >= stages) {
      stage -= stages;
      phase ^= 1;
    }
  }
};

// Scores, weights and what is left of them when a share ends.
template <int kSlots>
struct SplitScratch {
  float max[kKeyGroups][4][kSlots];      // of a warp's scores
  float value_scale[kKeyGroups][4];      // largest of a warp's tokens
  float factors[kKeyGroups][2][kSlots];  // of the sums before a tile's weights, when it raised
  int raised[kKeyGroups][2];             // the references
  float reference[kKeyGroups][kSlots];   // at the end
  float unit[kKeyGroups];
  float sums[kKeyGroups][4][kSlots], zeros[kKeyGroups][4][kSlots];
  SplitBarriers barriers;
};
static_assert(sizeof(SplitScratch<16>) <= 4096);

struct SplitShare {
  int sequence, unit, split, length;
  int begin, end;    // tiles
  int64_t position;  // of token 0
  std::byte* const* blocks;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// ---- The copying warps.

// Bytes of a page: rows, then scales and zeros.
struct PageBytes {
  uint32_t rows, scales;

  __device__ PageBytes(const ProjectionView& p, int row_bytes)
      : rows(static_cast<uint32_t>(kTileTokens * row_bytes)),
        scales(static_cast<uint32_t>(kTileTokens * (p.bits == 16  ? 0
                                                    : p.symmetric ? 2
                                                                  : 3))) {}
};

// Starts copying the rows W of a block (counted over all sequences).
__device__ inline void CopySlowRows(const SplitArguments& args, const SplitShare& share,
                                    int64_t block, int stage, std::byte* shared,
                                    SplitBarriers& bars) {
  const int bytes = args.plan.slow_bytes();
  bars.slow_full[stage].ArriveExpecting(static_cast<uint32_t>(bytes));
  CopyBulk(shared + args.plan.shared.slow + stage * bytes,
           args.slow + (block * args.plan.units + share.unit) * bytes, static_cast<uint32_t>(bytes),
           bars.slow_full[stage]);
}

// By one warp: rows W of fast pairs and of the share's first block, when they are there.
__device__ inline void CopyFirstRows(const SplitArguments& args, const SplitShare& share,
                                     std::byte* shared, SplitBarriers& bars) {
  const SplitPlan& plan = args.plan;
  const int tokens = args.decode.layer.split.block_tokens, made = plan.made_bytes();
  const int64_t before = SlowBlocksBefore(args.decode.sequences, share.sequence, tokens);
  if (threadIdx.x % 32 != 0) return;
  bars.fast.ArriveExpecting(static_cast<uint32_t>(plan.fast_bytes()));
  if (plan.form.grouped) {  // rows of U, which no kernel makes
    const int bytes = plan.fast_row_bytes();
    const auto* up =
        static_cast<const std::byte*>(args.decode.layer.k.pages[plan.page_of(share.unit)].split_up);
    CopyBulk(shared + plan.shared.fast,
             up + plan.up.fast + share.unit % plan.form.units_per_page() * bytes,
             static_cast<uint32_t>(bytes), bars.fast);
  }
  WaitForPreviousKernel();
  CopyBulk(shared + plan.shared.fast + plan.fast_bytes() - made,
           args.fast + (int64_t{share.sequence} * plan.units + share.unit) * made,
           static_cast<uint32_t>(made), bars.fast);
  CopySlowRows(args, share, before + share.begin / (tokens / kTileTokens), 0, shared, bars);
}

// By one warp.
template <class Form, int kBits>
__device__ void Produce(const SplitArguments& args, const SplitShare& share, std::byte* shared,
                        SplitBarriers& bars) {
  constexpr uint32_t kPhiBytes = kTileTokens * Form::kForm.terms * 4;
  const AttentionView& layer = args.decode.layer;
  const SplitShared& at = args.plan.shared;
  const int64_t before =
      SlowBlocksBefore(args.decode.sequences, share.sequence, layer.split.block_tokens);
  const int page = args.plan.page_of(share.unit);
  const PageView k = layer.k.pages[page], v = layer.v.pages[page];
  const PageBytes key_bytes(layer.k, RowBytes(kBits, k.width));
  const PageBytes value_bytes(layer.v, RowBytes(kBits, v.width));
  const uint32_t value_group = value_bytes.rows / (kTileTokens / kGroupRows);
  const int per_block = layer.split.block_tokens / kTileTokens;
  int in_block = share.begin % per_block;
  int64_t block = before + share.begin / per_block;
  RingPlace place, slow;
  const std::byte* next = share.blocks[share.begin];
  for (int tile = share.begin; tile < share.end; ++tile, ++in_block) {
    const std::byte* from = next;
    if (tile + 1 < share.end) next = share.blocks[tile + 1];
    if (in_block == per_block) {
      in_block = 0;
      ++block;
      slow.Advance(1, 2);
      WaitForPreviousKernel();
      bars.slow_empty[slow.stage].Wait(slow.phase ^ 1);
      if (ElectLane()) CopySlowRows(args, share, block, slow.stage, shared, bars);
    }
    PhaseBarrier& key_full = bars.key_full[place.stage];
    std::byte* keys = shared + at.keys + place.stage * at.key_stage;
    bars.key_empty[place.stage].Wait(place.phase ^ 1);
    if (ElectLane()) {
      const uint32_t bytes = key_bytes.rows + key_bytes.scales;
      key_full.ArriveExpecting(bytes + kPhiBytes);
      CopyBulk(keys, from + k.offset, bytes, key_full);
      CopyBulk(keys + at.phi, layer.split.basis + static_cast<uint32_t>(in_block) * (kPhiBytes / 4),
               kPhiBytes, key_full);
    }
    PhaseBarrier& value_full = bars.value_full[place.stage];
    std::byte* values = shared + at.values + place.stage * at.value_stage;
    bars.value_empty[place.stage].Wait(place.phase ^ 1);
    if (ElectLane()) {
      const std::byte* rows = from + v.offset;
      value_full.ArriveExpecting(value_bytes.rows + value_bytes.scales);
#pragma unroll
      for (uint32_t g = 0; g < kTileTokens / kGroupRows; ++g) {
        CopyBulk(values + g * (value_group + kGroupPadding), rows + g * value_group, value_group,
                 value_full);
      }
      if (value_bytes.scales > 0) {
        CopyBulk(values + value_bytes.rows + kTileTokens / kGroupRows * kGroupPadding,
                 rows + value_bytes.rows, value_bytes.scales, value_full);
      }
    }
    place.Advance(1, args.plan.stages);
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
