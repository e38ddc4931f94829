// Bound by memory: each KV head's rows are read once for all its query heads. A sequence is cut
// into splits, one per block of threads; every warp streams tiles of its split through a ring in
// shared memory, and a second kernel merges the splits.
#include "ops/cuda/decode_plain.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/mma.cuh"
#include "ops/cuda/reduce.cuh"
#include "ops/cuda/vector.cuh"
#include "ops/paged_kv.h"

namespace palu::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kLoads = 8;   // 16-byte loads per lane of a tile's keys, and of its values
constexpr int kStages = 2;  // tiles of a warp in the ring; a slot is refilled as soon as it is read
constexpr int kTileBytes = kLoads * 32 * 16;  // of keys or values
constexpr int kWarpRingBytes = kStages * 2 * kTileBytes;
constexpr int kMaxSplits = 128;
constexpr int kInvariantSplits = 16;
constexpr int kMergeThreads = 512;
constexpr float kLog2E = 1.44269504088896340736f;

constexpr int Resident(int dim, int heads_per_kv) {
  return heads_per_kv <= 4 || dim == 128 ? 3 : 2;
}

// Where a warp of kHeads query heads (a power of 2, some of them perhaps idle) holds what. A row of
// kDim elements is spread over kLanes lanes; the scores of a tile, kLoads * kHeads for every kLanes
// lanes, end up as kScores per lane, all of one head.
template <int kDim, int kHeads>
struct Layout {
  static constexpr int kLanes = kDim / 8;
  static constexpr int kRows = 32 / kLanes;              // rows in one load of the warp
  static constexpr int kTile = kRows * kLoads;           // tokens
  static constexpr int kLanesPerHead = kLanes / kHeads;  // that hold scores of the same head
  static constexpr int kShares = kLanesPerHead < kLoads ? kLanesPerHead : kLoads;
  static constexpr int kCopies = kLanesPerHead / kShares;  // lanes with the very same scores
  static constexpr int kScores = kLoads / kShares;

  static constexpr int kProbabilityBytes = kTile * kHeads * 4;  // [kTile, kHeads] of one warp
  static constexpr int kSharedBytes = kWarps * (kWarpRingBytes + kProbabilityBytes);
  static_assert(kHeads * kDim * 4 <= kWarpRingBytes);  // the ring holds the warp's sums at the end
  static_assert(kBlockTokens % kTile == 0);

  // Blocks of threads that an SM runs at once, bounded by shared memory or by registers.
  static constexpr int kResident = Resident(kDim, kHeads);
};

// What the two kernels share, by value.
struct Partials {
  float* sums = nullptr;     // [count, heads, splits, d], sum of 2^(score - max) v
  float2* states = nullptr;  // [count, heads, splits], max in base 2 and sum of 2^(score - max)
  int32_t splits = 1;
};

// One step of a transposed reduction over lanes `kOffset` apart: of 2 kN values each lane keeps kN
// sums, the upper lane the upper half.
template <int kOffset, int kN, int kSize>
__device__ inline void HalveValues(float (&values)[kSize], int lane) {
  static_assert(2 * kN <= kSize);
  const bool upper = lane & kOffset;
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    const float sent = upper ? values[i] : values[i + kN];
    const float kept = upper ? values[i + kN] : values[i];
    values[i] = kept + __shfl_xor_sync(kAllLanes, sent, kOffset);
  }
}

// Halves until one value is left or the lanes have been used up, then adds over the other lanes
// down to kLast.
template <int kOffset, int kLast, int kN, int kSize>
__device__ inline void ReduceTransposed(float (&values)[kSize], int lane) {
  if constexpr (kOffset >= kLast) {
    if constexpr (kN > 1) {
      HalveValues<kOffset, kN / 2>(values, lane);
      ReduceTransposed<kOffset / 2, kLast, kN / 2>(values, lane);
    } else {
      values[0] += __shfl_xor_sync(kAllLanes, values[0], kOffset);
      ReduceTransposed<kOffset / 2, kLast, 1>(values, lane);
    }
  }
}

// Over the lanes that hold different scores of the same head.
template <class L, class Op>
__device__ inline float ReduceOverRows(float value, const Op& op) {
#pragma unroll
  for (int offset = 16; offset >= L::kCopies; offset /= 2) {
    if (offset < L::kLanes && offset >= L::kLanesPerHead) continue;  // between heads
    value = op(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

template <class T>
__device__ inline void LoadShared(uint32_t shared, float (&to)[8]) {
  uint32_t bits[4];
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
               : "r"(shared)
               : "memory");
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, __half>) {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&bits[i]));
      to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
    } else {
      to[2 * i] = __uint_as_float(bits[i] << 16);
      to[2 * i + 1] = __uint_as_float(bits[i] & 0xFFFF0000u);
    }
  }
}

// Starts this lane's share of a tile; of its rows, `row`, row + kRows, ... exist those below
// `rows`, the others become zeros. A lane reads back only what it has copied itself.
template <class L>
__device__ inline void CopyTile(uint32_t shared, const std::byte* from, int row, int rows) {
  if (rows >= L::kTile) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) CopyAsync16(shared + j * 512, from + j * 512, true);
  } else if (rows > 0) {
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      CopyAsync16(shared + j * 512, from + j * 512, row + j * L::kRows < rows);
    }
  }
  CommitCopies();  // empty where there is no tile, to keep the count
}

// q: [count, heads*kDim], rows q_stride elements apart. Grid [splits, KV heads, count]. Heads from
// kBusy on are idle: they cost no products.
template <class T, int kDim, int kHeads, int kBusy>
__global__ void __launch_bounds__(kThreads, Layout<kDim, kHeads>::kResident)
    SplitKernel(const __grid_constant__ AttentionView layer, SequencesView sequences,
                const float* q, int64_t q_stride, Partials partials) {
  using L = Layout<kDim, kHeads>;
  LetNextKernelStart();
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float2 warp_states[kWarps][kHeads];
  // Shuffled, so that the compiler knows loops over the warp's tiles to be uniform.
  const int lane = threadIdx.x % 32, warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0);
  const int kv_head = blockIdx.y, sequence = blockIdx.z, heads_per_kv = layer.heads_per_kv();
  const int64_t first_head = int64_t{sequence} * layer.heads + kv_head * heads_per_kv;

  // Tokens [begin, end): whole blocks, the last one perhaps short.
  const int length = sequences.lengths[sequence];
  const int64_t blocks = (length + kBlockTokens - 1) / kBlockTokens;
  const int begin = static_cast<int>(blocks * blockIdx.x / partials.splits * kBlockTokens);
  const int end =
      min(length, static_cast<int>(blocks * (blockIdx.x + 1) / partials.splits * kBlockTokens));
  if (begin >= end) {
    WaitForPreviousKernel();
    if (static_cast<int>(threadIdx.x) < heads_per_kv) {
      partials.states[(first_head + threadIdx.x) * partials.splits + blockIdx.x] = {-INFINITY, 0};
    }
    return;
  }

  // The warp's tiles start at token, token + kStep, ...
  constexpr int kStep = kWarps * L::kTile;
  std::byte* const* table = sequences.blocks + int64_t{sequence} * sequences.stride;
  const int row = lane / L::kLanes;
  const int64_t k_offset = layer.k.pages[kv_head].offset + lane * 16;
  const int64_t v_offset = layer.v.pages[kv_head].offset + lane * 16;
  const uint32_t ring = SharedAddress(shared) + warp * kWarpRingBytes + lane * 16;
  const auto tile_address = [&](int token) -> const std::byte* {
    if (token >= end) return nullptr;
    return table[token / kBlockTokens] + token % kBlockTokens * (kDim * 2);
  };
  int token = begin + warp * L::kTile;
  // The kernel before may be storing the sequence's last token; tiles without it come earlier.
  const bool settled = token + (kStages - 1) * kStep + L::kTile < length;
  if (!settled) WaitForPreviousKernel();
  {
    const std::byte* tiles[kStages];
#pragma unroll
    for (int s = 0; s < kStages; ++s) tiles[s] = tile_address(token + s * kStep);
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      const uint32_t slot = ring + s * 2 * kTileBytes;
      CopyTile<L>(slot, tiles[s] + k_offset, row, end - token - s * kStep);
      CopyTile<L>(slot + kTileBytes, tiles[s] + v_offset, row, end - token - s * kStep);
    }
  }
  if (settled) WaitForPreviousKernel();
  const std::byte* ahead = tile_address(token + kStages * kStep);

  // This lane's eight columns of all query heads; heads that the layer lacks repeat the last one.
  float query[kBusy][8];
#pragma unroll
  for (int g = 0; g < kBusy; ++g) {
    const float* from = q + sequence * q_stride + lane % L::kLanes * 8 +
                        int64_t{kv_head * heads_per_kv + min(g, heads_per_kv - 1)} * kDim;
#pragma unroll
    for (int i = 0; i < 8; ++i) query[g][i] = from[i] * (layer.scale * kLog2E);
  }

  // The head and the first load of this lane's scores.
  const int head = lane % L::kLanes / L::kLanesPerHead;
  const int first_load = lane % L::kLanesPerHead / L::kCopies * L::kScores;
  float* const probabilities =
      reinterpret_cast<float*>(shared + kWarps * kWarpRingBytes + warp * L::kProbabilityBytes);

  float max = -INFINITY;  // of `head`, the same in all its lanes
  float sum = 0;          // of this lane's probabilities
  float acc[kBusy][8] = {};
  uint32_t slot = ring;
  for (; token < end; token += kStep) {
    const int rows_ahead = end - token - kStages * kStep;
    WaitForCopies<2 * kStages - 1>();  // this tile's keys have come
    float scores[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      float key[8], products[kHeads] = {};
      LoadShared<T>(slot + j * 512, key);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int g = 0; g < kBusy; ++g) products[g] = fmaf(query[g][i], key[i], products[g]);
      }
      if constexpr (kHeads > 1) {
        ReduceTransposed<L::kLanes / 2, L::kLanesPerHead, kHeads>(products, lane);
      }
      scores[j] = products[0];
    }
    CopyTile<L>(slot, ahead + k_offset, row, rows_ahead);
    ReduceTransposed<L::kLanesPerHead / 2, 1, kLoads>(scores, lane);

    const int first_row = first_load * L::kRows + row;
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < L::kScores; ++i) {
      if (first_row + i * L::kRows >= end - token) scores[i] = -INFINITY;
      top = fmaxf(top, scores[i]);
    }
    top = fmaxf(max, ReduceOverRows<L>(top, [](float a, float b) { return fmaxf(a, b); }));
    if (__any_sync(kAllLanes, top > max)) {
      const float shrink = Exp2(max - top);
      sum *= shrink;
#pragma unroll
      for (int g = 0; g < kBusy; ++g) {
        const float factor = __shfl_sync(kAllLanes, shrink, g * L::kLanesPerHead);
#pragma unroll
        for (int i = 0; i < 8; ++i) acc[g][i] *= factor;
      }
      max = top;
    }
    __syncwarp();  // the last tile's probabilities have been read
#pragma unroll
    for (int i = 0; i < L::kScores; ++i) {
      const float p = Exp2(scores[i] - max);
      sum += p;
      probabilities[(first_row + i * L::kRows) * kHeads + head] = p;
    }
    __syncwarp();

    WaitForCopies<2 * kStages - 1>();  // and its values
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      float value[8];
      LoadShared<T>(slot + kTileBytes + j * 512, value);
      float p[kHeads];
      Load(probabilities + (j * L::kRows + row) * kHeads, p);
#pragma unroll
      for (int g = 0; g < kBusy; ++g) {
#pragma unroll
        for (int i = 0; i < 8; ++i) acc[g][i] = fmaf(p[g], value[i], acc[g][i]);
      }
    }
    CopyTile<L>(slot + kTileBytes, ahead + v_offset, row, rows_ahead);
    ahead = tile_address(token + (kStages + 1) * kStep);
    slot = slot + 2 * kTileBytes == ring + kWarpRingBytes ? ring : slot + 2 * kTileBytes;
  }
  WaitForCopies<0>();
  __syncwarp();

  // The warps' sums [kHeads, kDim] go where their tiles were and are added in order.
  sum = ReduceOverRows<L>(sum, [](float a, float b) { return a + b; });
  float* const own = reinterpret_cast<float*>(shared + warp * kWarpRingBytes);
#pragma unroll
  for (int g = 0; g < kBusy; ++g) {
#pragma unroll
    for (int offset = 16; offset >= L::kLanes; offset /= 2) {
#pragma unroll
      for (int i = 0; i < 8; ++i) acc[g][i] += __shfl_xor_sync(kAllLanes, acc[g][i], offset);
    }
    if (lane < L::kLanes) {
      float4* const to = reinterpret_cast<float4*>(own + g * kDim + lane * 8);
      to[0] = {acc[g][0], acc[g][1], acc[g][2], acc[g][3]};
      to[1] = {acc[g][4], acc[g][5], acc[g][6], acc[g][7]};
    }
  }
  if (lane < L::kLanes && lane % L::kLanesPerHead == 0) warp_states[warp][head] = {max, sum};
  __syncthreads();
  for (int i = threadIdx.x; i < heads_per_kv * kDim; i += kThreads) {
    const int g = i / kDim, column = i % kDim;
    float top = -INFINITY, total = 0, result = 0;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, warp_states[w][g].x);
    for (int w = 0; w < kWarps; ++w) {
      const float factor = Exp2(warp_states[w][g].x - top);
      total += factor * warp_states[w][g].y;
      result += factor * reinterpret_cast<const float*>(shared + w * kWarpRingBytes)[i];
    }
    const int64_t at = (first_head + g) * partials.splits + blockIdx.x;
    partials.sums[at * kDim + column] = result;
    if (column == 0) partials.states[at] = {top, total};
  }
}

// out: [count, heads, kDim]. Grid [heads, count]. Sums of empty splits hold anything.
template <class Out, int kDim>
__global__ void __launch_bounds__(kMergeThreads) MergeKernel(Partials partials, Out* out) {
  constexpr int kGroups = kMergeThreads / kDim;  // of threads, which take splits in turn
  __shared__ float weights[kMaxSplits];
  __shared__ float group_sums[kGroups][kDim];
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int64_t head = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  const float2* states = partials.states + head * partials.splits;
  const float* sums = partials.sums + head * partials.splits * kDim;

  // Every warp computes the same maximum and total.
  const int lane = threadIdx.x % 32;
  float max = -INFINITY, total = 0;
  for (int s = lane; s < partials.splits; s += 32) max = fmaxf(max, states[s].x);
  max = WarpMax(max);
  for (int s = lane; s < partials.splits; s += 32) {
    const float2 state = states[s];
    const float weight = state.x == -INFINITY ? 0 : Exp2(state.x - max);
    total += weight * state.y;
    if (threadIdx.x < 32) weights[s] = weight;
  }
  total = WarpSum(total);
  __syncthreads();

  const int group = threadIdx.x / kDim, column = threadIdx.x % kDim;
  float result = 0;
#pragma unroll 8
  for (int s = group; s < partials.splits; s += kGroups) {
    const float weight = weights[s];
    if (weight != 0) result += weight * sums[int64_t{s} * kDim + column];
  }
  group_sums[group][column] = result;
  __syncthreads();
  if (group != 0) return;
  for (int g = 1; g < kGroups; ++g) result += group_sums[g][column];
  out[head * kDim + column] = Saturate<Out>(total == 0 ? 0 : result / total);
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
  const int64_t slots = int64_t{Multiprocessors()} * Resident(layer.head_dim, layer.heads_per_kv());
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

template <class T, int kDim, int kHeads, int kBusy = kHeads>
void LaunchSplits(const AttentionView& layer, const SequencesView& sequences, const float* q,
                  int64_t q_stride, const Partials& partials, cudaStream_t stream) {
  const auto kernel = SplitKernel<T, kDim, kHeads, kBusy>;
  constexpr int kShared = Layout<kDim, kHeads>::kSharedBytes;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "reserving shared memory for decoding");
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "reserving shared memory for decoding");
  const dim3 grid(static_cast<unsigned>(partials.splits), static_cast<unsigned>(layer.kv_heads),
                  static_cast<unsigned>(sequences.count));
  LaunchEarly(kernel, grid, kThreads, kShared, stream, layer, sequences, q, q_stride, partials);
}

template <class T, int kDim, class... Args>
void SplitsOfHeads(const AttentionView& layer, const Args&... args) {
  const int heads = layer.heads_per_kv();
  if (heads == 1) return LaunchSplits<T, kDim, 1>(layer, args...);
  if (heads == 2) return LaunchSplits<T, kDim, 2>(layer, args...);
  if (heads <= 4) return LaunchSplits<T, kDim, 4>(layer, args...);
  if (heads == 7) return LaunchSplits<T, kDim, 8, 7>(layer, args...);  // Qwen2.5
  return LaunchSplits<T, kDim, 8>(layer, args...);
}

template <int kDim, class... Args>
void SplitsOfDim(const AttentionView& layer, const Args&... args) {
  if (layer.k.dtype == DType::kF16) return SplitsOfHeads<__half, kDim>(layer, args...);
  SplitsOfHeads<__nv_bfloat16, kDim>(layer, args...);
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
    const int64_t most =
        int64_t{kMaxWaves} * Multiprocessors() * Resident(layer.head_dim, layer.heads_per_kv());
    blocks = std::min(std::max(blocks, most), blocks * kMaxSplits);
  }
  return static_cast<size_t>(blocks * layer.heads_per_kv()) *
         (sizeof(float2) + static_cast<size_t>(layer.head_dim) * sizeof(float));
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
  partials.states = reinterpret_cast<float2*>(
      partials.sums + int64_t{sequences.count} * layer.heads * partials.splits * layer.head_dim);
  const bool wide = layer.head_dim == 128;
  if (wide) {
    SplitsOfDim<128>(layer, sequences, q, q_stride, partials, stream);
  } else {
    SplitsOfDim<64>(layer, sequences, q, q_stride, partials, stream);
  }
  const dim3 grid(static_cast<unsigned>(layer.heads), static_cast<unsigned>(sequences.count));
  WithType(out_dtype, [&](auto tag) {
    using Out = typename decltype(tag)::Type;
    const auto kernel = wide ? MergeKernel<Out, 128> : MergeKernel<Out, 64>;
    LaunchEarly(kernel, grid, kMergeThreads, 0, stream, partials, static_cast<Out*>(out));
  });
}

}  // namespace palu::cuda
