// Prefill attention on CUDA cores, float32 throughout: for float32 weights and unusual head_dims.
#include "ops/cuda/prefill_attention.cuh"
#include "ops/cuda/vector.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = 16;  // threads that share a query row
constexpr int kKeysPerThread = kKeyTile / kLanes;
constexpr int kScorePitch = kKeyTile + 4;

// Floats per row in shared memory. head_dim / 4 is even, so that rows one after the other start in
// different banks of 16 bytes.
__host__ __device__ constexpr int Pitch(int head_dim) { return head_dim + 4; }

// Rows [0, rows) of `source` as floats; those from `valid` on are zeros.
template <class T>
__device__ void CopyRows(const T* source, int64_t stride, int valid, int rows, int head_dim,
                         float* to) {
  const int packs = head_dim / 4;
  for (int index = threadIdx.x; index < rows * packs; index += kThreads) {
    const int row = index / packs, column = index % packs * 4;
    float x[4] = {};
    if (row < valid) Load(source + row * stride + column, x);
    *reinterpret_cast<float4*>(to + row * Pitch(head_dim) + column) =
        make_float4(x[0], x[1], x[2], x[3]);
  }
}

__device__ inline float Dot(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}
__device__ inline float4 ReadFour(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ inline void AddScaled(float scale, float4 x, float (&sum)[4]) {
  sum[0] = fmaf(scale, x.x, sum[0]);
  sum[1] = fmaf(scale, x.y, sum[1]);
  sum[2] = fmaf(scale, x.z, sum[2]);
  sum[3] = fmaf(scale, x.w, sum[3]);
}

// A thread has kRows query rows, 16 apart; of their scores the keys lane, lane + 16, ... and of
// their results kGroups groups of four columns, 64 apart.
template <class T, int kRows, int kGroups>
__global__ void __launch_bounds__(kThreads)
    PrefillPlainKernel(const __grid_constant__ PrefillArgs args) {
  extern __shared__ float4 shared[];
  constexpr int kBlockRows = kRows * (kThreads / kLanes);
  const int d = args.head_dim, pitch = Pitch(d);
  float* queries = reinterpret_cast<float*>(shared);
  float* tile = queries + kBlockRows * pitch;  // keys and then values
  float* scores = tile + kKeyTile * pitch;
  const int block_row = FirstRow<kBlockRows>();
  const int head = static_cast<int>(blockIdx.x);
  const int kv_head = head / (args.heads / args.kv_heads);
  const int first = static_cast<int>(threadIdx.x) / kLanes;  // of this thread's rows
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int rows = min(kBlockRows, args.count - block_row);
  const int keys = args.LastKey<true>(block_row + rows - 1) + 1;
  if (keys == 0 && !args.first) return;

  float max[kRows], sum[kRows];  // sum: of this lane's keys
  float out[kRows][kGroups][4] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    max[r] = -INFINITY;
    sum[r] = 0;
    const int row = block_row + first + r * kLanes;
    if (args.first || row >= args.count) continue;
    const int64_t state = int64_t{row} * args.heads + head;
    max[r] = args.max[state];
    sum[r] = lane == 0 ? args.sum[state] : 0.0f;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int column = (lane + g * kLanes) * 4;
      if (column < d) Load(args.acc + state * d + column, out[r][g]);
    }
  }

  CopyRows(static_cast<const T*>(args.q) + block_row * args.q_stride() + head * d, args.q_stride(),
           rows, kBlockRows, d, queries);
  const int begin = args.FirstKey<true>(block_row) / kKeyTile * kKeyTile;
  for (int first_key = begin; first_key < keys; first_key += kKeyTile) {
    const int64_t offset = first_key * args.kv_stride() + kv_head * d;
    const int valid = args.tokens - first_key;
    CopyRows(static_cast<const T*>(args.k) + offset, args.kv_stride(), valid, kKeyTile, d, tile);
    __syncthreads();
    float s[kRows][kKeysPerThread] = {};
    for (int i = 0; i < d; i += 4) {
      float4 q[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) q[r] = ReadFour(queries + (first + r * kLanes) * pitch + i);
#pragma unroll
      for (int j = 0; j < kKeysPerThread; ++j) {
        const float4 key = ReadFour(tile + (lane + j * kLanes) * pitch + i);
#pragma unroll
        for (int r = 0; r < kRows; ++r) s[r][j] = Dot(q[r], key, s[r][j]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = block_row + first + r * kLanes;
      const int from = args.FirstKey<true>(row) - first_key,
                seen = args.LastKey<true>(row) - first_key;
      float top = max[r];
#pragma unroll
      for (int j = 0; j < kKeysPerThread; ++j) {
        if (lane + j * kLanes > seen || lane + j * kLanes < from) s[r][j] = -INFINITY;
        top = fmaxf(top, s[r][j]);
      }
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
      }
      const float shift = top == -INFINITY ? 0.0f : top;  // a row without any key keeps -inf
      const float shrink = exp2f((max[r] - shift) * args.scale_log2);
      max[r] = top;
      sum[r] *= shrink;
#pragma unroll
      for (int j = 0; j < kKeysPerThread; ++j) {
        const float p = exp2f((s[r][j] - shift) * args.scale_log2);
        sum[r] += p;
        scores[(first + r * kLanes) * kScorePitch + lane + j * kLanes] = p;
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[r][g][i] *= shrink;
      }
    }
    __syncthreads();  // keys are read, probabilities are there
    CopyRows(static_cast<const T*>(args.v) + offset, args.kv_stride(), valid, kKeyTile, d, tile);
    __syncthreads();
    for (int key = 0; key < kKeyTile; key += 4) {
      float4 p[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        p[r] = ReadFour(scores + (first + r * kLanes) * kScorePitch + key);
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int column = (lane + g * kLanes) * 4;
        if (column >= d) continue;
        const float* value = tile + key * pitch + column;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          AddScaled(p[r].x, ReadFour(value), out[r][g]);
          AddScaled(p[r].y, ReadFour(value + pitch), out[r][g]);
          AddScaled(p[r].z, ReadFour(value + 2 * pitch), out[r][g]);
          AddScaled(p[r].w, ReadFour(value + 3 * pitch), out[r][g]);
        }
      }
    }
    __syncthreads();  // values are read
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float total = sum[r];
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
    const int row = block_row + first + r * kLanes;
    if (row >= args.count) continue;
    const int64_t state = int64_t{row} * args.heads + head;
    if (lane == 0) {
      args.max[state] = max[r];
      args.sum[state] = total;
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int column = (lane + g * kLanes) * 4;
      if (column < d) Store(out[r][g], args.acc + state * d + column);
    }
  }
}

template <class T, int kRows, int kGroups>
void Launch(const PrefillArgs& args, cudaStream_t stream) {
  constexpr int kBlockRows = kRows * (kThreads / kLanes);
  const int floats = (kBlockRows + kKeyTile) * Pitch(args.head_dim) + kBlockRows * kScorePitch;
  LaunchPrefill(PrefillPlainKernel<T, kRows, kGroups>, PrefillGrid<kBlockRows>(args), kThreads,
                static_cast<size_t>(floats) * sizeof(float), args, stream);
}

}  // namespace

template <class T>
void PrefillPlain(const PrefillArgs& args, cudaStream_t stream) {
  if (args.head_dim <= 64) {
    Launch<T, 4, 1>(args, stream);
  } else if (args.head_dim <= 128) {
    Launch<T, 4, 2>(args, stream);
  } else {  // fewer rows, so that they fit into shared memory
    Launch<T, 1, 4>(args, stream);
  }
}

template void PrefillPlain<float>(const PrefillArgs&, cudaStream_t);
template void PrefillPlain<__half>(const PrefillArgs&, cudaStream_t);
template void PrefillPlain<__nv_bfloat16>(const PrefillArgs&, cudaStream_t);

}  // namespace palu::cuda
