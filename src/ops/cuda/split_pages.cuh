// Pages of latents on their way into shared memory, for decode attention by the frequency split:
// the ring that they arrive in and the warpgroup that copies them.
#pragma once

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/split_blocks.cuh"

namespace palu::cuda {

inline constexpr int kGroupThreads = 128;  // of a warpgroup
inline constexpr int kConsumers = 2;       // warpgroups
inline constexpr int kSplitThreads = (1 + kConsumers) * kGroupThreads;
inline constexpr int kMaxStagesOfSplit = 6;
inline constexpr float kDenormal = 16777216.0f;  // a code as bits of an fp16 number is worth 2^-24

struct SplitBarriers {
  PhaseBarrier fast;
  PhaseBarrier slow_full[2], slow_empty[2];
  PhaseBarrier key_full[kMaxStagesOfSplit], key_empty[kMaxStagesOfSplit];
  PhaseBarrier value_full[kMaxStagesOfSplit], value_empty[kMaxStagesOfSplit];
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
  float max[kConsumers][4][kSlots];     // of a warp's scores
  float value_scale[kConsumers][4];     // largest of a warp's tokens
  float reference[kConsumers][kSlots];  // at the end
  float unit[kConsumers];
  float sums[kConsumers][4][kSlots], zeros[kConsumers][4][kSlots];
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

// ---- The copying warp.

// What a lane copies of a page at a time: lanes 0 to 3 a group of rows each, lane 4 scales and
// zeros.
struct PagePiece {
  static constexpr int kLanes = 5;
  uint32_t from = 0, to = 0, bytes = 0;

  __device__ PagePiece(const ProjectionView& p, int row_bytes, int lane) {
    if (lane < 4) {
      from = static_cast<uint32_t>(lane * kGroupRows * row_bytes);
      to = static_cast<uint32_t>(StagedRow(row_bytes, lane * kGroupRows));
      bytes = static_cast<uint32_t>(kGroupRows * row_bytes);
    } else if (lane == 4 && p.bits < 16) {
      from = static_cast<uint32_t>(kTileTokens * row_bytes);
      to = static_cast<uint32_t>(StagedScales(row_bytes));
      bytes = static_cast<uint32_t>(kTileTokens * (p.symmetric ? 2 : 3));
    }
  }
};
__device__ inline uint32_t PageBytes(const ProjectionView& p, int row_bytes) {
  return static_cast<uint32_t>(kTileTokens * (row_bytes + (p.bits == 16  ? 0
                                                           : p.symmetric ? 2
                                                                         : 3)));
}

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
  constexpr int kPhiBytes = kTileTokens * Form::kForm.terms * 4;
  const AttentionView& layer = args.decode.layer;
  const SplitShared& at = args.plan.shared;
  const int lane = static_cast<int>(threadIdx.x), page = args.plan.page_of(share.unit);
  const PageView k = layer.k.pages[page], v = layer.v.pages[page];
  PagePiece k_piece(layer.k, RowBytes(kBits, k.width), lane);
  PagePiece v_piece(layer.v, RowBytes(kBits, v.width), lane);
  const uint32_t k_bytes = PageBytes(layer.k, RowBytes(kBits, k.width)) + kPhiBytes;
  const uint32_t v_bytes = PageBytes(layer.v, RowBytes(kBits, v.width));
  k_piece.from += static_cast<uint32_t>(k.offset);
  v_piece.from += static_cast<uint32_t>(v.offset);
  const int per_block = layer.split.block_tokens / kTileTokens;
  const int64_t before =
      SlowBlocksBefore(args.decode.sequences, share.sequence, layer.split.block_tokens);
  RingPlace place, slow;
  const std::byte* pages = nullptr;  // of the lane's tile among 32
  int block = share.begin / per_block, in_block = share.begin % per_block;
  for (int tile = share.begin; tile < share.end; ++tile, ++in_block) {
    const int of_32 = (tile - share.begin) % 32;
    if (of_32 == 0 && tile + lane < share.end) pages = share.blocks[tile + lane];
    if (in_block == per_block) {
      in_block = 0;
      ++block;
      slow.Advance(1, 2);
      if (lane == 0) {
        WaitForPreviousKernel();
        bars.slow_empty[slow.stage].Wait(slow.phase ^ 1);
        CopySlowRows(args, share, before + block, slow.stage, shared, bars);
      }
    }
    const auto* from = reinterpret_cast<const std::byte*>(
        __shfl_sync(~0u, reinterpret_cast<unsigned long long>(pages), of_32));
    PhaseBarrier& key_full = bars.key_full[place.stage];
    bars.key_empty[place.stage].Wait(place.phase ^ 1);
    if (lane == 0) key_full.ArriveExpecting(k_bytes);
    __syncwarp();
    std::byte* keys = shared + at.keys + place.stage * at.key_stage;
    if (k_piece.bytes > 0)
      CopyBulk(keys + k_piece.to, from + k_piece.from, k_piece.bytes, key_full);
    if (lane == PagePiece::kLanes) {
      CopyBulk(keys + at.phi, layer.split.basis + in_block * (kPhiBytes / 4), kPhiBytes, key_full);
    }
    PhaseBarrier& value_full = bars.value_full[place.stage];
    bars.value_empty[place.stage].Wait(place.phase ^ 1);
    if (lane == 0) value_full.ArriveExpecting(v_bytes);
    __syncwarp();
    std::byte* values = shared + at.values + place.stage * at.value_stage;
    if (v_piece.bytes > 0) {
      CopyBulk(values + v_piece.to, from + v_piece.from, v_piece.bytes, value_full);
    }
    place.Advance(1, args.plan.stages);
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
