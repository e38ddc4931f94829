// Prefill attention for 16-bit elements on tensor cores, after FlashAttention-2 (Dao 2023): a block
// has 128 query rows of one head, a warp 32 of them; keys and values come in tiles of 64 tokens
// through two stages of shared memory; scores and probabilities never leave registers.
#pragma once

#include "ops/cuda/mma.cuh"
#include "ops/cuda/prefill_attention.cuh"
#include "ops/cuda/swizzled_tile.cuh"
#include "ops/cuda/vector.cuh"

namespace palu::cuda {

inline constexpr int kWarps = 4;
inline constexpr int kRowTilesPerWarp = 2;
inline constexpr int kTensorRows = kWarps * kRowTilesPerWarp * 16;  // query rows of a block
inline constexpr int kTensorThreads = kWarps * 32;

// Which threads of the block copy what of a tile.
template <int kDim>
struct Tile : SwizzledTile<kDim> {
  using Base = SwizzledTile<kDim>;
  using Base::kChunks;

  // A thread copies chunks of one column, kStep rows apart.
  static constexpr int kStep = kTensorThreads / kChunks;
  static_assert(kStep % 8 == 0);
  static __device__ int ThreadRow() { return static_cast<int>(threadIdx.x) / kChunks; }
  static __device__ int ThreadColumn() { return static_cast<int>(threadIdx.x) % kChunks * 8; }

  // Rows [0, kRows); those from `valid` on are zeros. `from` is what lies at this thread's row and
  // column.
  template <int kRows, class T>
  __device__ void Fetch(const T* from, int64_t stride, int valid) const {
    static_assert(kRows % kStep == 0);
    const uint32_t to = this->Address(ThreadRow(), ThreadColumn() / 8);
#pragma unroll
    for (int row = 0; row < kRows; row += kStep) {
      CopyAsync16(to + row * Base::kRowBytes, from, ThreadRow() + row < valid);
      from += kStep * stride;
    }
  }
};

// The running softmax of a warp's rows and their weighted sums of values, as Mma lays them out:
// lane l holds, of the m-th 16 rows, rows l / 4 (half 0) and l / 4 + 8 (half 1).
template <int kDim, int kRowTiles>
struct WarpRows {
  static constexpr int kOutTiles = kDim / 8;
  static constexpr int kScoreTiles = kKeyTile / 8;

  float out[kRowTiles][kOutTiles][4];
  float max[kRowTiles][2];  // of unscaled scores, the same in all four lanes of a row
  float sum[kRowTiles][2];  // of this lane's columns

  __device__ void Clear() {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[m][n][i] = 0;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        max[m][half] = -INFINITY;
        sum[m][half] = 0;
      }
    }
  }

  // Scores become probabilities relative to the new maximum; sums follow.
  __device__ void Absorb(float (&s)[kRowTiles][kScoreTiles][4], float scale_log2) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = max[m][half];
#pragma unroll
        for (int n = 0; n < kScoreTiles; ++n) {
          top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        // A row without any key keeps -inf; 0 in its place makes every exponential below 0. The
        // difference comes first, so that an unchanged maximum shrinks by exactly 1.
        const float finite = top == -INFINITY ? 0.0f : top;
        const float shrink = Exp2((max[m][half] - finite) * scale_log2);
        const float shift = finite * scale_log2;
        max[m][half] = top;
        float added = 0;
#pragma unroll
        for (int n = 0; n < kScoreTiles; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            s[m][n][i] = Exp2(fmaf(s[m][n][i], scale_log2, -shift));
            added += s[m][n][i];
          }
        }
        sum[m][half] = fmaf(sum[m][half], shrink, added);
#pragma unroll
        for (int n = 0; n < kOutTiles; ++n) {
          out[m][n][2 * half] *= shrink;
          out[m][n][2 * half + 1] *= shrink;
        }
      }
    }
  }

  // From or to global memory; `row` is the warp's first one.
  __device__ void Read(const PrefillArgs& args, int row, int head);
  __device__ void Write(const PrefillArgs& args, int row, int head);

 private:
  static __device__ int Row(int first, int m, int half) {
    return first + m * 16 + half * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
  }
  static __device__ int Column(int n) { return n * 8 + static_cast<int>(threadIdx.x) % 4 * 2; }
};

template <int kDim, int kRowTiles>
__device__ void WarpRows<kDim, kRowTiles>::Read(const PrefillArgs& args, int first_row, int head) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Row(first_row, m, half);
      if (row >= args.count) continue;
      const int64_t state = int64_t{row} * args.heads + head;
      max[m][half] = args.max[state];
      sum[m][half] = threadIdx.x % 4 == 0 ? args.sum[state] : 0.0f;
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
        const float2 pair = *reinterpret_cast<const float2*>(args.acc + state * kDim + Column(n));
        out[m][n][2 * half] = pair.x;
        out[m][n][2 * half + 1] = pair.y;
      }
    }
  }
}

template <int kDim, int kRowTiles>
__device__ void WarpRows<kDim, kRowTiles>::Write(const PrefillArgs& args, int first_row, int head) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      const int row = Row(first_row, m, half);
      if (row >= args.count) continue;
      const int64_t state = int64_t{row} * args.heads + head;
      if (threadIdx.x % 4 == 0) {
        args.max[state] = max[m][half];
        args.sum[state] = total;
      }
#pragma unroll
      for (int n = 0; n < kOutTiles; ++n) {
        *reinterpret_cast<float2*>(args.acc + state * kDim + Column(n)) =
            make_float2(out[m][n][2 * half], out[m][n][2 * half + 1]);
      }
    }
  }
}

// s [rows of a warp, 64 keys] = q k^T. `row`: the warp's first one in the tile of queries.
template <class T, int kDim, int kRowTiles>
__device__ void Scores(const Tile<kDim>& queries, int row, const Tile<kDim>& keys,
                       float (&s)[kRowTiles][kKeyTile / 8][4]) {
  const int lane = Lane();
  const uint32_t query = queries.Address(row + lane % 16, lane / 16);
  const uint32_t key = keys.Address(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kKeyTile / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][n][i] = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      LoadMatrices(a[m], Tile<kDim>::Move(query, m * 16, step * 2));
    }
#pragma unroll
    for (int pair = 0; pair < kKeyTile / 16; ++pair) {
      uint32_t b[4];  // two tiles of 8 keys, 16 dimensions each
      LoadMatrices(b, Tile<kDim>::Move(key, pair * 16, step * 2));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        Mma<T>(s[m][2 * pair], a[m], b[0], b[1]);
        Mma<T>(s[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// out += p v; what Mma leaves of scores is what it takes as a left factor, two tiles at a time.
template <class T, int kDim, int kRowTiles>
__device__ void AddValues(const float (&p)[kRowTiles][kKeyTile / 8][4], const Tile<kDim>& values,
                          float (&out)[kRowTiles][kDim / 8][4]) {
  const int lane = Lane();
  const uint32_t value = values.Address(lane % 16, lane / 16);
#pragma unroll
  for (int step = 0; step < kKeyTile / 16; ++step) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const auto& low = p[m][2 * step];
      const auto& high = p[m][2 * step + 1];
      a[m][0] = PackPair<T>(low[0], low[1]);
      a[m][1] = PackPair<T>(low[2], low[3]);
      a[m][2] = PackPair<T>(high[0], high[1]);
      a[m][3] = PackPair<T>(high[2], high[3]);
    }
#pragma unroll
    for (int pair = 0; pair < kDim / 16; ++pair) {
      uint32_t b[4];  // 16 keys, two tiles of 8 dimensions each
      LoadTransposed(b, Tile<kDim>::Move(value, step * 16, pair * 2));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        Mma<T>(out[m][2 * pair], a[m], b[0], b[1]);
        Mma<T>(out[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Hides the keys of a tile, which begins at `first_key` of the piece, that rows from `warp_row` on
// do not see.
template <bool kBanded, int kRowTiles>
__device__ void Mask(const PrefillArgs& args, int warp_row, int first_key,
                     float (&s)[kRowTiles][kKeyTile / 8][4]) {
  const int lane = Lane();
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + m * 16 + half * 8 + lane / 4, column = lane % 4 * 2;
      const int begin = kBanded ? args.FirstKey<true>(row) - first_key - column : 0;
      const int last = args.first_limit + row;
      const int seen = min((kBanded ? max(last, args.least_limit) : last) - first_key,
                           args.tokens - first_key - 1) -
                       column;
#pragma unroll
      for (int n = 0; n < kKeyTile / 8; ++n) {
        if (n * 8 > seen || (kBanded && n * 8 < begin)) s[m][n][2 * half] = -INFINITY;
        if (n * 8 + 1 > seen || (kBanded && n * 8 + 1 < begin)) s[m][n][2 * half + 1] = -INFINITY;
      }
    }
  }
}

template <int kDim>
constexpr size_t PrefillSharedBytes() {  // queries, two stages of keys, two of values
  return static_cast<size_t>(kTensorRows + 4 * kKeyTile) * kDim * 2;
}

template <class T, int kDim, bool kBanded>
__global__ void __launch_bounds__(kTensorThreads, 2)
    PrefillTensorKernel(const __grid_constant__ PrefillArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const int block_row = FirstRow<kTensorRows>();
  const int head = static_cast<int>(blockIdx.x);
  const int kv_head = head / (args.heads / args.kv_heads);
  const int row_in_tile = static_cast<int>(threadIdx.x) / 32 * kRowTilesPerWarp * 16;
  const int warp_row = block_row + row_in_tile;
  const int rows = min(kTensorRows, args.count - block_row);
  const int keys =
      args.LastKey<kBanded>(block_row + rows - 1) + 1;  // that any row of the block sees
  if (keys == 0 && !args.first) return;

  WarpRows<kDim, kRowTilesPerWarp> state;
  state.Clear();
  if (!args.first) state.Read(args, warp_row, head);

  const uint32_t base = SharedAddress(shared);
  constexpr uint32_t kStage = kKeyTile * kDim * 2;
  const Tile<kDim> query_tile{base};
  const auto stage = [&](int i) {
    return Tile<kDim>{base + kTensorRows * kDim * 2 + static_cast<uint32_t>(i) * kStage};
  };
  const int first_tile = args.FirstKey<kBanded>(block_row) / kKeyTile;
  // Keys and values of the next tile lie at the same offset, this thread's.
  int64_t offset = kv_head * kDim +
                   (first_tile * kKeyTile + Tile<kDim>::ThreadRow()) * args.kv_stride() +
                   Tile<kDim>::ThreadColumn();
  const auto fetch = [&](int tile) {
    const int valid = args.tokens - tile * kKeyTile;
    stage(tile % 2).template Fetch<kKeyTile>(static_cast<const T*>(args.k) + offset,
                                             args.kv_stride(), valid);
    stage(2 + tile % 2)
        .template Fetch<kKeyTile>(static_cast<const T*>(args.v) + offset, args.kv_stride(), valid);
    CommitCopies();
    offset += kKeyTile * args.kv_stride();
  };

  const int tiles = (keys + kKeyTile - 1) / kKeyTile;
  if (first_tile < tiles) {
    const int64_t row = block_row + Tile<kDim>::ThreadRow();
    query_tile.template Fetch<kTensorRows>(static_cast<const T*>(args.q) + row * args.q_stride() +
                                               head * kDim + Tile<kDim>::ThreadColumn(),
                                           args.q_stride(), rows);
    fetch(first_tile);
  }
  // Of the warp: from where and up to where all its rows see keys.
  const int from_all = args.FirstKey<kBanded>(warp_row + kRowTilesPerWarp * 16 - 1);
  const int seen_by_all = args.LastKey<kBanded>(warp_row);
  for (int tile = first_tile; tile < tiles; ++tile) {
    WaitForCopies<0>();
    __syncthreads();  // the tile has come, and all warps are done with the one before
    if (tile + 1 < tiles) fetch(tile + 1);
    const int first_key = tile * kKeyTile;
    if (first_key >= seen_by_all + kRowTilesPerWarp * 16) continue;  // nobody of the warp sees it
    float s[kRowTilesPerWarp][kKeyTile / 8][4];
    Scores<T, kDim, kRowTilesPerWarp>(query_tile, row_in_tile, stage(tile % 2), s);
    if (first_key + kKeyTile - 1 > seen_by_all || first_key < from_all) {
      Mask<kBanded, kRowTilesPerWarp>(args, warp_row, first_key, s);
    }
    state.Absorb(s, args.scale_log2);
    AddValues<T, kDim, kRowTilesPerWarp>(s, stage(2 + tile % 2), state.out);
  }
  state.Write(args, warp_row, head);
}

template <class T, int kDim>
void PrefillOnTensorCores(const PrefillArgs& args, cudaStream_t stream) {
  const auto kernel =
      args.banded ? PrefillTensorKernel<T, kDim, true> : PrefillTensorKernel<T, kDim, false>;
  LaunchPrefill(kernel, PrefillGrid<kTensorRows>(args), kTensorThreads, PrefillSharedBytes<kDim>(),
                args, stream);
}

}  // namespace palu::cuda
