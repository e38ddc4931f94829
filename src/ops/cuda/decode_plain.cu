// Bound by memory: each KV head's rows are read once for all its query heads. A sequence is cut
// into splits, one per block of threads; every warp streams tiles of its split through a ring in
// shared memory and multiplies them with up to 8 queries on tensor cores, and a second kernel
// merges the splits.
#include "ops/cuda/decode_plain.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/mma.cuh"
#include "ops/cuda/reduce.cuh"
#include "ops/cuda/softmax_state.cuh"
#include "ops/cuda/swizzled_tile.cuh"
#include "ops/cuda/vector.cuh"
#include "ops/paged_kv.h"

namespace palu::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kResident = 3;  // blocks of threads on a multiprocessor, bounded by shared memory
constexpr int kQueries = 8;   // columns of a product, one per query head of the KV head
constexpr int kLoads = 8;     // 16-byte loads per lane of a tile's keys, and of its values
constexpr int kStages = 2;    // tiles of a warp in the ring; a slot is refilled once it is read
constexpr int kTileBytes = kLoads * 32 * 16;  // of keys or values
constexpr int kWarpRingBytes = kStages * 2 * kTileBytes;
constexpr int kSharedBytes = kWarps * kWarpRingBytes;
constexpr int kMaxSplits = 128;
constexpr int kInvariantSplits = 16;
constexpr int kMergeWarps = 8;
constexpr float kLog2E = 1.44269504088896340736f;

template <int kDim>
struct Layout {
  static constexpr int kTile = kTileBytes / (kDim * 2);        // tokens
  static constexpr int kStep = kWarps * kTile;                 // from a warp's tile to its next one
  static constexpr int kSumStride = kDim + 4;                  // of a warp's sums [kQueries, kDim],
  static_assert(kQueries * kSumStride * 4 <= kWarpRingBytes);  // which end in its ring
  static_assert(kBlockTokens % kTile == 0);
};

// What the two kernels share, by value.
struct Partials {
  float* sums = nullptr;       // [count, heads, splits, d], sum of 2^(score - max) v
  Softmax2* states = nullptr;  // [count, heads, splits]
  int32_t splits = 1;
};

// Starts this lane's share of a tile of which `rows` rows exist; the others become zeros.
template <int kDim>
__device__ inline void CopyTile(SwizzledTile<kDim> tile, const std::byte* from, int rows) {
  constexpr int kChunks = SwizzledTile<kDim>::kChunks, kRows = 32 / kChunks;  // of one load
  if (rows > 0) {
    const int row = Lane() / kChunks, chunk = Lane() % kChunks;
    from += Lane() * 16;
    const bool whole = rows >= Layout<kDim>::kTile;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      CopyAsync16(tile.Address(row + j * kRows, chunk), from + j * 512,
                  whole || row + j * kRows < rows);
    }
  }
  CommitCopies();  // empty where there is no tile, to keep the count
}

template <class T>
__device__ inline float2 UnpackPair(uint32_t pair) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  } else {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)};
  }
}

// Two numbers as pairs of elements: `high` is rounded, `low` is what it lacks, rounded. Products
// with both are good to twice the elements' precision.
template <class T>
__device__ inline void SplitPair(float x, float y, uint32_t& high, uint32_t& low) {
  high = PackPair<T>(x, y);
  const float2 rounded = UnpackPair<T>(high);
  low = PackPair<T>(x - rounded.x, y - rounded.y);
}

// x, or the largest finite number of __half in its place; NaN stays.
template <class T>
__device__ inline float Limit(float x) {
  if constexpr (std::is_same_v<T, __half>) x = x > 65504 ? 65504 : x < -65504 ? -65504 : x;
  return x;
}

// A warp's queries [8, kDim] and their softmax over its tokens. Lane l holds query l / 4, elements
// 2 (l % 4) and the next of every 8 (a right factor of Mma), and of scores [tokens, 8] and sums
// [kDim, 8] rows l / 4 of every 8, columns 2 (l % 4) and the next (its result).
template <class T, int kDim>
struct WarpQueries {
  static constexpr int kRowTiles = Layout<kDim>::kTile / 16;
  static constexpr int kDimTiles = kDim / 16;

  uint32_t q_high[kDimTiles][2], q_low[kDimTiles][2];
  Softmax2 states[2];             // of this lane's columns; sums of this lane's tokens
  float sums[kDimTiles][4] = {};  // of 2^(score - max) v

  // q: of query l / 4. Elements beyond what T holds stop there.
  __device__ void LoadQuery(const float* q) {
#pragma unroll
    for (int step = 0; step < kDimTiles; ++step) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* pair = q + step * 16 + i * 8 + Lane() % 4 * 2;
        SplitPair<T>(Limit<T>(pair[0]), Limit<T>(pair[1]), q_high[step][i], q_low[step][i]);
      }
    }
  }

  // s = scale * keys q; -inf for the tile's tokens from `tokens` on.
  __device__ void Scores(SwizzledTile<kDim> keys, float scale, int tokens,
                         float (&s)[kRowTiles][4]) const {
    const uint32_t from = keys.Address(Lane() % 16, Lane() / 16);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      float high[4] = {}, low[4] = {};
#pragma unroll
      for (int step = 0; step < kDimTiles; ++step) {
        uint32_t a[4];
        LoadMatrices(a, keys.Move(from, m * 16, step * 2));
        Mma<T>(high, a, q_high[step][0], q_high[step][1]);
        Mma<T>(low, a, q_low[step][0], q_low[step][1]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool exists = m * 16 + i / 2 * 8 + Lane() / 4 < tokens;
        s[m][i] = exists ? (high[i] + low[i]) * scale : -kInfinity;
      }
    }
  }

  // Scores become weights 2^(score - max); what was summed before follows the new maximum.
  __device__ void Absorb(float (&s)[kRowTiles][4]) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      float top = -kInfinity;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) top = fmaxf(top, fmaxf(s[m][column], s[m][column + 2]));
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
      }
      const float factor = RaiseMax(states[column], top);
      const float shift = Shift(states[column].max);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int i = column; i < 4; i += 2) {
          s[m][i] = Exp2(s[m][i] - shift);
          states[column].sum += s[m][i];
        }
      }
#pragma unroll
      for (int tile = 0; tile < kDimTiles; ++tile) {
        sums[tile][column] *= factor;
        sums[tile][column + 2] *= factor;
      }
    }
  }

  // sums += values^T weights.
  __device__ void AddValues(SwizzledTile<kDim> values, const float (&weights)[kRowTiles][4]) {
    const uint32_t from = values.Address(Lane() % 8 + Lane() / 16 * 8, Lane() / 8 % 2);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      uint32_t high[2], low[2];  // [tokens, 8], then as a right factor
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        SplitPair<T>(weights[m][2 * i], weights[m][2 * i + 1], high[i], low[i]);
        high[i] = Transposed(high[i]);
        low[i] = Transposed(low[i]);
      }
#pragma unroll
      for (int tile = 0; tile < kDimTiles; ++tile) {
        uint32_t a[4];
        LoadTransposed(a, values.Move(from, m * 16, tile * 2));
        Mma<T>(sums[tile], a, high[0], high[1]);
        Mma<T>(sums[tile], a, low[0], low[1]);
      }
    }
  }

  // Sums to [kQueries, kSumStride], states [kQueries] over all tokens of the warp.
  __device__ void Store(float* to, Softmax2* to_states) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int query = Lane() % 4 * 2 + column;
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        states[column].sum += __shfl_xor_sync(kAllLanes, states[column].sum, offset);
      }
      if (Lane() < 4) to_states[query] = states[column];
      float* const row = to + query * Layout<kDim>::kSumStride + Lane() / 4;
#pragma unroll
      for (int tile = 0; tile < kDimTiles; ++tile) {
        row[tile * 16] = sums[tile][column];
        row[tile * 16 + 8] = sums[tile][column + 2];
      }
    }
  }
};

// q: [count, heads*kDim], rows q_stride elements apart. Grid [splits, KV heads, count]. Leaves the
// registers of one more block to the kernel that follows.
template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, kResident + 1)
    SplitKernel(const __grid_constant__ AttentionView layer, SequencesView sequences,
                const float* q, int64_t q_stride, Partials partials) {
  using L = Layout<kDim>;
  using Tile = SwizzledTile<kDim>;
  LetNextKernelStart();
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Softmax2 warp_states[kWarps][kQueries];
  const int warp = Uniform(static_cast<int>(threadIdx.x) / 32);
  const int split = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int sequence = static_cast<int>(blockIdx.z), heads_per_kv = layer.heads_per_kv();
  const int64_t first_head = int64_t{sequence} * layer.heads + kv_head * heads_per_kv;
  const int64_t k_offset = layer.k.pages[kv_head].offset;
  const int64_t v_offset = layer.v.pages[kv_head].offset;

  // Tokens [begin, end): whole tiles, the last one perhaps short.
  const int length = sequences.lengths[sequence];
  const int tiles = (length + L::kTile - 1) / L::kTile;
  const int share = tiles / partials.splits, longer = tiles % partials.splits;
  const int begin = (share * split + min(split, longer)) * L::kTile;
  const int end = min(length, begin + (share + (split < longer ? 1 : 0)) * L::kTile);
  if (begin >= end) {
    WaitForPreviousKernel();
    if (static_cast<int>(threadIdx.x) < heads_per_kv) {
      partials.states[(first_head + threadIdx.x) * partials.splits + split] = Softmax2{};
    }
    return;
  }

  // The warp's tiles start at token, token + kStep, ...
  std::byte* const* table = sequences.blocks + int64_t{sequence} * sequences.stride;
  const auto tile_address = [&](int token) -> const std::byte* {
    if (token >= end) return nullptr;
    return table[token / kBlockTokens] + token % kBlockTokens * (kDim * 2);
  };
  const uint32_t ring = SharedAddress(shared) + static_cast<uint32_t>(warp * kWarpRingBytes);
  int token = begin + warp * L::kTile;
  // The kernel before may be storing the sequence's last token; tiles without it come earlier.
  const bool settled = token + (kStages - 1) * L::kStep + L::kTile < length;
  if (!settled) WaitForPreviousKernel();
  {
    const std::byte* from[kStages];
#pragma unroll
    for (int s = 0; s < kStages; ++s) from[s] = tile_address(token + s * L::kStep);
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      const uint32_t slot = ring + s * 2 * kTileBytes;
      CopyTile(Tile{slot}, from[s] + k_offset, end - token - s * L::kStep);
      CopyTile(Tile{slot + kTileBytes}, from[s] + v_offset, end - token - s * L::kStep);
    }
  }
  if (settled) WaitForPreviousKernel();
  const std::byte* ahead = tile_address(token + kStages * L::kStep);

  WarpQueries<T, kDim> queries;  // columns that the layer lacks repeat the last head
  queries.LoadQuery(q + sequence * q_stride +
                    (kv_head * heads_per_kv + min(Lane() / 4, heads_per_kv - 1)) * kDim);
  uint32_t slot = ring;
  for (; token < end; token += L::kStep) {
    const int rows_ahead = end - token - kStages * L::kStep;
    const Tile keys{slot}, values{slot + kTileBytes};
    float weights[WarpQueries<T, kDim>::kRowTiles][4];
    WaitForCopies<2 * kStages - 1>();
    __syncwarp();  // all of this tile's keys have come
    queries.Scores(keys, layer.scale * kLog2E, end - token, weights);
    __syncwarp();  // and have been read
    CopyTile(keys, ahead + k_offset, rows_ahead);
    queries.Absorb(weights);
    WaitForCopies<2 * kStages - 1>();
    __syncwarp();  // the same for its values
    queries.AddValues(values, weights);
    __syncwarp();
    CopyTile(values, ahead + v_offset, rows_ahead);
    ahead = tile_address(token + (kStages + 1) * L::kStep);
    slot = slot + 2 * kTileBytes == ring + kWarpRingBytes ? ring : slot + 2 * kTileBytes;
  }
  WaitForCopies<0>();
  __syncwarp();

  // The warps' sums go where their tiles were and are added in order, four columns per lane.
  const auto* const all = reinterpret_cast<const float*>(shared);
  constexpr int kRingFloats = kWarpRingBytes / 4;
  queries.Store(reinterpret_cast<float*>(shared) + warp * kRingFloats, warp_states[warp]);
  __syncthreads();
  for (int g = warp; g < heads_per_kv; g += kWarps) {
    Softmax2 state;
    float factors[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) state.max = fmaxf(state.max, warp_states[w][g].max);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      factors[w] = Exp2(warp_states[w][g].max - Shift(state.max));
      state.sum += factors[w] * warp_states[w][g].sum;
    }
    const int64_t at = (first_head + g) * partials.splits + split;
    if (Lane() * 4 < kDim) {
      float4 sum = {};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float4 add = *reinterpret_cast<const float4*>(all + w * kRingFloats +
                                                            g * L::kSumStride + Lane() * 4);
        sum.x += factors[w] * add.x, sum.y += factors[w] * add.y;
        sum.z += factors[w] * add.z, sum.w += factors[w] * add.w;
      }
      *reinterpret_cast<float4*>(partials.sums + at * kDim + Lane() * 4) = sum;
    }
    if (Lane() == 0) partials.states[at] = state;
  }
}

// out: [count, heads, kDim]. Grid [heads, count]. Sums of empty splits hold anything.
template <class Out, int kDim>
__global__ void __launch_bounds__(kMergeWarps * 32) MergeKernel(Partials partials, Out* out) {
  constexpr int kLanes = kDim / 4;                    // of a split's sums, four each
  constexpr int kGroups = kMergeWarps * 32 / kLanes;  // which take splits in turn
  constexpr int kRounds = (kMaxSplits + kGroups - 1) / kGroups;
  constexpr int kAhead = kRounds < 8 ? kRounds : 8;  // of a group's sums, loaded with the states
  __shared__ float weights[kMaxSplits];
  __shared__ float4 group_sums[kGroups][kLanes];
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int64_t head = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  const int splits = partials.splits, group = threadIdx.x / kLanes, column = threadIdx.x % kLanes;
  const Softmax2* states = partials.states + head * splits;
  const auto* sums = reinterpret_cast<const float4*>(partials.sums + head * splits * kDim) + column;
  float4 ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const int s = group + i * kGroups;
    if (s < splits) ahead[i] = sums[s * kLanes];
  }

  // Every warp computes the same maximum and total.
  const int lane = threadIdx.x % 32;
  Softmax2 own[kMaxSplits / 32], all;
#pragma unroll
  for (int i = 0; i < kMaxSplits / 32; ++i) {
    if (lane + i * 32 < splits) own[i] = states[lane + i * 32];
    all.max = fmaxf(all.max, own[i].max);
  }
  all.max = WarpMax(all.max);
#pragma unroll
  for (int i = 0; i < kMaxSplits / 32; ++i) {
    const float weight = Exp2(own[i].max - Shift(all.max));
    all.sum += weight * own[i].sum;
    if (threadIdx.x < 32) weights[lane + i * 32] = weight;
  }
  all.sum = WarpSum(all.sum);
  __syncthreads();

  float4 result = {};
  const auto add = [&](float weight, const float4& sum) {
    if (weight == 0) return;
    result.x += weight * sum.x, result.y += weight * sum.y;
    result.z += weight * sum.z, result.w += weight * sum.w;
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const int s = group + i * kGroups;
    if (s < splits) add(weights[s], ahead[i]);
  }
  for (int s = group + kAhead * kGroups; s < splits; s += kGroups) {
    add(weights[s], sums[s * kLanes]);
  }
  group_sums[group][column] = result;
  __syncthreads();
  if (threadIdx.x >= kDim) return;
  float total = 0;
  for (int g = 0; g < kGroups; ++g) {
    total += reinterpret_cast<const float*>(group_sums[g])[threadIdx.x];
  }
  out[head * kDim + threadIdx.x] = Saturate<Out>(all.sum == 0 ? 0 : total / all.sum);
}

int Multiprocessors() {
  int device = 0, multiprocessors = 0;
  Check(cudaGetDevice(&device), "asking for the device");
  Check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "asking for the number of multiprocessors");
  return multiprocessors;
}

constexpr int kMaxWaves = 4;

// Splits per KV head so that the blocks of threads fill a few whole waves of the device best, fewer
// waves where that costs little.
int32_t SplitsFor(const AttentionView& layer, int32_t count) {
  if (layer.batch_invariant) return kInvariantSplits;
  const int64_t slots = int64_t{Multiprocessors()} * kResident;
  const int64_t pairs = int64_t{count} * layer.kv_heads;
  int64_t best = 1;
  double best_fill = 0;
  for (int waves = 1; waves <= kMaxWaves && best_fill < 0.95; ++waves) {
    const int64_t splits = std::min<int64_t>(waves * slots / pairs, kMaxSplits);
    const double fill = static_cast<double>(splits * pairs) / static_cast<double>(waves * slots);
    if (fill > best_fill) best_fill = fill, best = splits;
  }
  return static_cast<int32_t>(best);
}

template <class T, int kDim>
void LaunchSplits(const AttentionView& layer, const SequencesView& sequences, const float* q,
                  int64_t q_stride, const Partials& partials, cudaStream_t stream) {
  const auto kernel = SplitKernel<T, kDim>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "reserving shared memory for decoding");
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "reserving shared memory for decoding");
  const dim3 grid(static_cast<unsigned>(partials.splits), static_cast<unsigned>(layer.kv_heads),
                  static_cast<unsigned>(sequences.count));
  LaunchEarly(kernel, grid, kThreads, kSharedBytes, stream, layer, sequences, q, q_stride,
              partials);
}

}  // namespace

bool SupportsPlainDecode(const AttentionView& layer) {
  const auto plain = [](const ProjectionView& p) {
    return !p.latent && p.bits == 16 && p.heads_per_page == 1 &&
           (p.dtype == DType::kF16 || p.dtype == DType::kBF16);
  };
  return (layer.head_dim == 64 || layer.head_dim == 128) && plain(layer.k) && plain(layer.v) &&
         layer.k.dtype == layer.v.dtype && layer.kv_heads > 0 &&
         layer.heads % layer.kv_heads == 0 && layer.heads_per_kv() <= 8;
}

size_t PlainDecodeWorkspaceBytes(const AttentionView& layer, int32_t count) {
  // A smaller batch may have more splits, but never more blocks of threads than kMaxWaves.
  int64_t blocks = int64_t{count} * layer.kv_heads;
  if (layer.batch_invariant) {
    blocks *= kInvariantSplits;
  } else {
    const int64_t most = int64_t{kMaxWaves} * Multiprocessors() * kResident;
    blocks = std::min(std::max(blocks, most), blocks * kMaxSplits);
  }
  return static_cast<size_t>(blocks * layer.heads_per_kv()) *
         (sizeof(Softmax2) + static_cast<size_t>(layer.head_dim) * sizeof(float));
}

void PlainDecode(const AttentionView& layer, const SequencesView& sequences, const float* q,
                 int64_t q_stride, void* workspace, DType out_dtype, void* out,
                 cudaStream_t stream) {
  if (!SupportsPlainDecode(layer)) {
    FailWith("expected keys and values that are stored as F16 or BF16, up to 8 heads per KV head");
  }
  if (sequences.count == 0) return;
  Partials partials;
  partials.splits = SplitsFor(layer, sequences.count);
  partials.sums = static_cast<float*>(workspace);
  partials.states = reinterpret_cast<Softmax2*>(
      partials.sums + int64_t{sequences.count} * layer.heads * partials.splits * layer.head_dim);
  const bool wide = layer.head_dim == 128;
  const bool half = layer.k.dtype == DType::kF16;
  const auto launch = wide ? (half ? LaunchSplits<__half, 128> : LaunchSplits<__nv_bfloat16, 128>)
                           : (half ? LaunchSplits<__half, 64> : LaunchSplits<__nv_bfloat16, 64>);
  launch(layer, sequences, q, q_stride, partials, stream);
  const dim3 grid(static_cast<unsigned>(layer.heads), static_cast<unsigned>(sequences.count));
  WithType(out_dtype, [&](auto tag) {
    using Out = typename decltype(tag)::Type;
    const auto kernel = wide ? MergeKernel<Out, 128> : MergeKernel<Out, 64>;
    LaunchEarly(kernel, grid, kMergeWarps * 32, 0, stream, partials, static_cast<Out*>(out));
  });
}

}  // namespace palu::cuda
