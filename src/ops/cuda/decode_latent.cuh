// Decode attention over latents, fused: rebuild keys, rotate, score, weigh, sum latent values.
// One thread block takes one unit of one sequence and a contiguous share of its tiles.
#pragma once

#include "ops/cuda/decode_scores.cuh"
#include "ops/cuda/decode_unpack.cuh"
#include "ops/cuda/decode_values.cuh"
#include "tensor/cuda/check.h"

namespace palu::cuda {

// The regions of shared memory by type.
struct DecodeRegions {
  __device__ DecodeRegions(const DecodeShared& s, std::byte* base)
      : rope(reinterpret_cast<float2*>(base + s.rope)),
        queries(reinterpret_cast<float*>(base + s.queries)),
        scores(reinterpret_cast<float*>(base + s.scores)),
        states(reinterpret_cast<Softmax2*>(base + s.states)),
        factors(reinterpret_cast<float*>(base + s.factors)),
        sums(reinterpret_cast<float*>(base + s.sums)),
        weights(base + s.weights),
        k_land(base + s.k_land),
        k_tile(base + s.k_tile),
        v_land(base + s.v_land),
        v_tile(base + s.v_tile) {}
  float2* rope;
  float *queries, *scores;
  Softmax2* states;
  float *factors, *sums;
  std::byte *weights, *k_land, *k_tile, *v_land, *v_tile;
};

// Sums and states of no scores, and zeros where weights of filled-up rows are read.
template <int kDim>
__device__ void BeginDecode(const DecodeArguments& args, const DecodeRegions& at) {
  const int rows = args.plan.rows(args.layer), tokens = args.plan.tile_tokens;
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  if (args.layer.k.latent) LoadRopeTile<kDim>(args.layer.rope, at.rope);
  for (int i = first; i < rows * args.layer.v.max_width; i += step) at.sums[i] = 0;
  for (int i = first; i < rows; i += step) at.states[i] = {};
  uint16_t* zeros = reinterpret_cast<uint16_t*>(at.weights) + rows * (tokens + 8);
  for (int i = first; i < tokens + 8; i += step) zeros[i] = 0;
}

template <class E, int kDim, int kGroup>
__device__ void ScoreTile(const DecodeArguments& args, const DecodeTile& tile,
                          const DecodeRegions& at) {
  if (args.layer.k.latent) {
    ScoreLatents<E, kDim, kGroup>(args, tile, at.k_tile, at.rope, at.queries, at.scores);
  } else {
    ScoreKeys<E, kDim, kGroup>(args, tile, at.k_tile, at.queries, at.scores);
  }
}

// Value operands may have another type than the keys', where one of the two is codes.
__device__ inline bool HalfValues(const ProjectionView& v) {
  return v.bits < 16 || v.dtype == DType::kF16;
}

__device__ inline void WeighTile(const DecodeArguments& args, const DecodeRegions& at) {
  const int rows = args.plan.rows(args.layer), tokens = args.plan.tile_tokens;
  if (HalfValues(args.layer.v)) {
    WeighScores(rows, tokens, at.scores, reinterpret_cast<__half*>(at.weights), at.states,
                at.factors);
  } else {
    WeighScores(rows, tokens, at.scores, reinterpret_cast<__nv_bfloat16*>(at.weights), at.states,
                at.factors);
  }
}

__device__ inline void SumTile(const DecodeArguments& args, const DecodeTile& tile,
                               const DecodeRegions& at) {
  if (HalfValues(args.layer.v)) {
    SumValues(args, tile, reinterpret_cast<const __half*>(at.weights), at.factors, at.v_tile,
              at.sums);
  } else {
    SumValues(args, tile, reinterpret_cast<const __nv_bfloat16*>(at.weights), at.factors, at.v_tile,
              at.sums);
  }
}

// Index of a row's partial result: [count, heads, splits].
__device__ inline int64_t PartialIndex(const DecodeArguments& args, int sequence, int head,
                                       int split) {
  return (int64_t{sequence} * args.layer.heads + head) * args.plan.splits + split;
}

__device__ inline void StorePartials(const DecodeArguments& args, int sequence, int unit, int split,
                                     bool empty, const DecodeRegions& at) {
  const int rows = args.plan.rows(args.layer), width = args.layer.v.max_width;
  for (int row = 0; row < rows; ++row) {
    const int64_t i = PartialIndex(args, sequence, unit * rows + row, split);
    if (threadIdx.x == 0) {
      const Softmax2 state = empty ? Softmax2{} : at.states[row];
      args.partials.states[i] = {state.max, state.sum};
    }
    if (empty) continue;  // nobody reads sums of no scores
    for (int c = static_cast<int>(threadIdx.x); c < width; c += static_cast<int>(blockDim.x)) {
      args.partials.sums[i * width + c] = at.sums[row * width + c];
    }
  }
}

// At the first token of a share.
__device__ inline DecodeTile MakeTile(const DecodeArguments& args, int sequence, int unit,
                                      int first) {
  const SequencesView& s = args.sequences;
  const RecentView& recent = s.recent;
  const int length = s.lengths[sequence];
  DecodeTile tile{s.blocks + int64_t{sequence} * s.stride,
                  length,
                  unit,
                  args.plan.tile_tokens,
                  first,
                  nullptr,
                  1,
                  length};
  if (recent.tokens > 0) {
    tile.window = recent.windows[sequence];
    tile.recent = recent.tokens;
    tile.exact = max(recent.begins[sequence], length - recent.tokens);
  }
  return tile;
}

// grid: (splits, units, count).
template <class E, int kDim, int kGroup>
__global__ void __launch_bounds__(256, 1)
    LatentDecode(const __grid_constant__ DecodeArguments args) {
  extern __shared__ __align__(128) std::byte shared[];
  const DecodeRegions at(args.plan.shared, shared);
  const ProjectionView &k = args.layer.k, &v = args.layer.v;
  const int split = static_cast<int>(blockIdx.x), unit = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z);
  const int unit_heads = args.plan.unit_heads, tokens = args.plan.tile_tokens;
  const int rows = args.plan.rows(args.layer);
  const int length = args.sequences.lengths[sequence];
  const int64_t start = args.sequences.first_positions[sequence];
  const int tiles = (length + tokens - 1) / tokens;
  const int share = (tiles + args.plan.splits - 1) / args.plan.splits;
  const int begin = split * share, end = min(begin + share, tiles);
  if (begin >= end) return StorePartials(args, sequence, unit, split, true, at);

  DecodeTile tile = MakeTile(args, sequence, unit, begin * tokens);
  const bool same_land = args.plan.shared.same_land, one_tile = args.plan.shared.one_tile;
  const float* q = args.q + sequence * args.q_stride + unit * rows * args.layer.head_dim;
  CopyRows(k, tile, unit_heads, at.k_land);
  CommitCopies();
  BeginDecode<kDim>(args, at);
  for (int i = begin; i < end; ++i) {
    DecodeTile next = tile;
    next.first += tokens;
    TurnQueries<kDim>(args.layer, tile, start + tile.first, rows, q, at.queries);
    WaitForCopies<0>();
    __syncthreads();  // keys have landed; the last tile's values are done with
    if (k.bits < 16) {
      UnpackTile(k, tile, unit_heads, at.k_land, at.k_tile);
      __syncthreads();
    }
    if (!one_tile) {
      CopyRows(v, tile, unit_heads, at.v_land);
    } else if (i + 1 < end) {
      CopyRows(k, next, unit_heads, at.k_land);
    }
    CommitCopies();
    ScoreTile<E, kDim, kGroup>(args, tile, at);
    __syncthreads();  // scores are complete; keys are done with
    if (!same_land && !one_tile && i + 1 < end) CopyRows(k, next, unit_heads, at.k_land);
    CommitCopies();
    WeighTile(args, at);
    if (!one_tile) WaitForCopies<1>();
    __syncthreads();  // values have landed, weights are complete
    if (v.bits < 16 && !one_tile) {
      UnpackTile(v, tile, unit_heads, at.v_land, at.v_tile);
      __syncthreads();
      if (same_land && i + 1 < end) CopyRows(k, next, unit_heads, at.k_land);
      CommitCopies();
    }
    SumTile(args, tile, at);
    tile = next;
  }
  __syncthreads();
  StorePartials(args, sequence, unit, split, false, at);
}

template <class E, int kDim, int kGroup>
void LaunchLatentGroup(const DecodeArguments& args, cudaStream_t stream) {
  const auto kernel = LatentDecode<E, kDim, kGroup>;
  const DecodePlan& plan = args.plan;
  Check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared.bytes),
      "reserving shared memory");
  const dim3 grid(static_cast<unsigned>(plan.splits), static_cast<unsigned>(plan.units),
                  static_cast<unsigned>(args.sequences.count));
  kernel<<<grid, static_cast<unsigned>(plan.threads), static_cast<size_t>(plan.shared.bytes),
           stream>>>(args);
  Check(cudaGetLastError(), "attention over latents");
}

template <class E, int kDim>
void LaunchLatentDecode(const DecodeArguments& args, cudaStream_t stream) {
  const int group = args.layer.heads_per_kv();
  if (group == 1) return LaunchLatentGroup<E, kDim, 1>(args, stream);
  if (group == 2) return LaunchLatentGroup<E, kDim, 2>(args, stream);
  if (group <= 4) return LaunchLatentGroup<E, kDim, 4>(args, stream);
  LaunchLatentGroup<E, kDim, 8>(args, stream);
}

}  // namespace palu::cuda
