// Pages of latents on their way into shared memory, for decode attention by the frequency split.
#pragma once

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/split_blocks.cuh"

namespace palu::cuda {

inline constexpr int kGroupThreads = 128;  // of a warpgroup
inline constexpr int kMaxStagesOfSplit = 6;
inline constexpr float kDenormal = 16777216.0f;  // a code as bits of an fp16 number is worth 2^-24

// Key groups, then the value group.
__host__ __device__ constexpr int SplitThreads(int key_groups) {
  return (key_groups + 1) * kGroupThreads;
}

// A tile's page is in the ring when it is full. When its weights are there, its keys have been
// read, and when the value group is done with it, its place is free: a key group copies the next
// page there. Rows of slow pairs give way when all key groups have left their block.
struct SplitBarriers {
  PhaseBarrier fast;
  PhaseBarrier slow_full[2], slow_empty[2];
  PhaseBarrier page_full[kMaxStagesOfSplit], page_done[kMaxStagesOfSplit];
  PhaseBarrier weights_full[kMaxKeyGroups][2], weights_empty[kMaxKeyGroups][2];

  __device__ void Init(int stages, int key_groups) {
    fast.Init(1);
    for (int i = 0; i < 2; ++i) {
      slow_full[i].Init(1);
      slow_empty[i].Init(key_groups * 4);
      for (int g = 0; g < key_groups; ++g) {
        weights_full[g][i].Init(4);
        weights_empty[g][i].Init(4);
      }
    }
    for (int i = 0; i < stages; ++i) {
      page_full[i].Init(1);
      page_done[i].Init(4);
    }
    FenceBarrierInit();
  }
};

// A ring's place and the parity of its phase.
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Advance(int by, int stages) {
    stage += by;
    while (stage >= stages) {
      stage -= stages;
      phase ^= 1;
    }
  }
};

// Scores, weights and what is left of them when a share ends.
template <int kSlots>
struct SplitScratch {
  float max[kMaxKeyGroups][4][kSlots];      // of a warp's scores
  float value_scale[kMaxKeyGroups][4];      // largest of a warp's tokens
  float factors[kMaxKeyGroups][2][kSlots];  // of the sums before a tile's weights, when it raised
  int raised[kMaxKeyGroups][2];             // the references
  float reference[kMaxKeyGroups][kSlots];   // at the end
  float unit[kMaxKeyGroups];
  float sums[kMaxKeyGroups][4][kSlots], zeros[kMaxKeyGroups][4][kSlots];
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

// ---- Copying.

// A unit's pages of keys and values of a tile.
template <class Form, int kBits>
struct PageCopy {
  static constexpr uint32_t kPhiBytes = kTileTokens * Form::kForm.terms * 4;
  int64_t key_offset, value_offset;
  uint32_t key_bytes, value_rows, value_scales;
  int per_block;  // tiles

  __device__ PageCopy(const AttentionView& layer, int page) {
    const PageView k = layer.k.pages[page], v = layer.v.pages[page];
    key_offset = k.offset;
    value_offset = v.offset;
    key_bytes = static_cast<uint32_t>(kTileTokens * RowBytes(kBits, k.width)) + Scales(layer.k);
    value_rows = static_cast<uint32_t>(kTileTokens * RowBytes(kBits, v.width));
    value_scales = Scales(layer.v);
    per_block = layer.split.block_tokens / kTileTokens;
  }
  __device__ static uint32_t Scales(const ProjectionView& p) {  // bytes, with the zeros
    return kBits == 16 ? 0 : static_cast<uint32_t>(kTileTokens * (p.symmetric ? 2 : 3));
  }

  // By one lane: tile `tile`, whose block starts at `from`.
  __device__ void Start(const SplitArguments& args, int tile, const std::byte* from, int stage,
                        std::byte* shared, SplitBarriers& bars) const {
    const SplitShared& at = args.plan.shared;
    PhaseBarrier& full = bars.page_full[stage];
    std::byte* keys = shared + at.keys + stage * at.key_stage;
    std::byte* values = shared + at.values + stage * at.value_stage;
    full.ArriveExpecting(key_bytes + kPhiBytes + value_rows + value_scales);
    CopyBulk(keys, from + key_offset, key_bytes, full);
    CopyBulk(
        keys + at.phi,
        args.decode.layer.split.basis + static_cast<uint32_t>(tile % per_block) * (kPhiBytes / 4),
        kPhiBytes, full);
    const std::byte* rows = from + value_offset;
    const uint32_t group = value_rows / (kTileTokens / kGroupRows);
#pragma unroll
    for (uint32_t g = 0; g < kTileTokens / kGroupRows; ++g) {
      CopyBulk(values + g * (group + kGroupPadding), rows + g * group, group, full);
    }
    if (value_scales > 0) {
      CopyBulk(values + value_rows + kTileTokens / kGroupRows * kGroupPadding, rows + value_rows,
               value_scales, full);
    }
  }
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

// By one warp: rows W of fast pairs and of the share's first two blocks, when they are there.
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
  const int per_block = tokens / kTileTokens, block = share.begin / per_block;
  CopySlowRows(args, share, before + block, 0, shared, bars);
  if ((block + 1) * per_block < share.end) {
    CopySlowRows(args, share, before + block + 1, 1, shared, bars);
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
