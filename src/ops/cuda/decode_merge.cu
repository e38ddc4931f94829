// The end of decode attention: joins the splits of a query head, then U_v and the bias. The bias
// of values goes straight to the output, since weights sum to one.
#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/decode_plan.h"
#include "ops/cuda/element.cuh"
#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/softmax_state.cuh"
#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRows = 4;                   // of U_v, of a warp
constexpr int kPartRows = kRows * kWarps;  // of a thread block
constexpr int kAhead = 2;                  // pieces of 256 columns that are read before the sums

// The largest or the sum of a value per thread.
template <class Join>
__device__ float OverBlock(float x, float* scratch, const Join& join) {
#pragma unroll
  for (int mask = 16; mask >= 1; mask /= 2) x = join(x, __shfl_xor_sync(~0u, x, mask));
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  x = scratch[0];
  for (int i = 1; i < kWarps; ++i) x = join(x, scratch[i]);
  return x;
}

// weights[split] <- its share of all scores.
__device__ void WeighSplits(const float2* states, int splits, float* scratch, float* weights) {
  const int i = static_cast<int>(threadIdx.x);
  const float2 state = i < splits ? states[i] : make_float2(-kInfinity, 0);
  const float max = OverBlock(state.x, scratch, [](float a, float b) { return fmaxf(a, b); });
  const float weight = Exp2(state.x - Shift(max));
  const float sum = OverBlock(weight * state.y, scratch, [](float a, float b) { return a + b; });
  // A split without scores has no sums to read.
  weights[i] = state.y == 0 ? 0 : weight / sum;
  __syncthreads();
}

template <class E>
__device__ float PieceDot(const Pack<E>& u, const float* x) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) sum += AsFloat(u.values[e]) * x[e];
  return sum;
}

// A warp's rows of U_v, read before the values they are multiplied by are known.
template <class E>
struct UpRows {
  const E* up;
  int width, lane;
  Pack<E> ahead[kRows][kAhead];

  __device__ UpRows(const E* rows, int width) : up(rows), width(width), lane(threadIdx.x % 32) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int c = lane * 8 + k * 256;
        if (c < width) ahead[r][k] = LoadPack(up + int64_t{r} * width + c);
      }
    }
  }
  // Row r times x [width].
  __device__ float Dot(int r, const float* x) const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int c = lane * 8 + k * 256;
      if (c < width) sum += PieceDot(ahead[r][k], x + c);
    }
    for (int c = lane * 8 + kAhead * 256; c < width; c += 256) {
      sum += PieceDot(LoadPack(up + int64_t{r} * width + c), x + c);
    }
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
    return sum;
  }
};

// Read whatever is done with it: behind a condition loads would wait for each other.
__device__ inline float4 LoadNow(const float* p) {
  float4 x;
  asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(p));
  return x;
}

// values [width] <- the joined sums of a head's splits; `row` of [count, heads]. A thread has four
// columns of every few splits; `parts`: [kThreads] of what they sum to.
__device__ void JoinSplits(const DecodeArguments& args, int64_t row, int width, float* scratch,
                           float* weights, float4* parts, float* values) {
  const int splits = args.plan.splits, max_width = args.layer.v.max_width;
  WeighSplits(args.partials.states + row * splits, splits, scratch, weights);
  const int t = static_cast<int>(threadIdx.x), columns = width / 4, shares = kThreads / columns;
  const int column = t % columns, share = t / columns;
  if (share < shares) {
    const float* sums = args.partials.sums + row * splits * max_width + 4 * column;
    float4 value = {0, 0, 0, 0};
#pragma unroll 8
    for (int s = share; s < splits; s += shares) {
      const float4 sum = LoadNow(sums + int64_t{s} * max_width);  // of an empty split: anything
      const float weight = weights[s];
      value.x += weight != 0 ? weight * sum.x : 0.0f;
      value.y += weight != 0 ? weight * sum.y : 0.0f;
      value.z += weight != 0 ? weight * sum.z : 0.0f;
      value.w += weight != 0 ? weight * sum.w : 0.0f;
    }
    parts[t] = value;
  }
  __syncthreads();
  for (int c = t; c < width; c += kThreads) {
    float value = 0;
    for (int s = 0; s < shares; ++s) {
      value += reinterpret_cast<const float*>(parts + s * columns)[c];
    }
    values[c] = value;
  }
  __syncthreads();
}

// grid: (heads, parts of kPartRows rows, count). E: elements of U_v. Dynamic shared memory:
// [widest V page] float.
template <class E, class Out>
__global__ void __launch_bounds__(kThreads)
    MergeDecode(const __grid_constant__ DecodeArguments args, Out* out) {
  extern __shared__ __align__(16) float values[];
  __shared__ float scratch[kWarps], weights[kThreads];
  __shared__ float4 parts[kThreads];
  const AttentionView& layer = args.layer;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / layer.heads_per_kv();
  const int64_t row = int64_t{blockIdx.z} * layer.heads + head;
  const int d = layer.head_dim, begin = static_cast<int>(blockIdx.y) * kPartRows;
  const PageView page = layer.v.pages[kv_head / layer.v.heads_per_page];
  if (!layer.v.latent) {
    WaitForPreviousKernel();
    JoinSplits(args, row, page.width, scratch, weights, parts, values);
    const int i = begin + static_cast<int>(threadIdx.x);
    if (threadIdx.x < kPartRows && i < d) out[row * d + i] = FromFloat<Out>(values[i]);
    return;
  }
  const int first = begin + static_cast<int>(threadIdx.x) / 32 * kRows;
  const int64_t up_row = int64_t{kv_head % layer.v.heads_per_page} * d + first;
  const UpRows<E> up(static_cast<const E*>(page.up) + up_row * page.width, page.width);
  const float* bias = layer.v.bias ? layer.v.bias + int64_t{kv_head} * d + first : nullptr;
  WaitForPreviousKernel();
  JoinSplits(args, row, page.width, scratch, weights, parts, values);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float x = up.Dot(r, values);
    if (threadIdx.x % 32 == 0) out[row * d + first + r] = FromFloat<Out>(x + (bias ? bias[r] : 0));
  }
}

template <class E, class Out>
void Launch(const DecodeArguments& args, Out* out, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.layer.heads),
                  static_cast<unsigned>(args.layer.head_dim / kPartRows),
                  static_cast<unsigned>(args.sequences.count));
  const size_t shared = static_cast<size_t>(args.layer.v.max_width) * sizeof(float);
  LaunchEarly(MergeDecode<E, Out>, grid, kThreads, shared, stream, args, out);
}

}  // namespace

void LaunchDecodeMerge(const DecodeArguments& args, DType out_dtype, void* out,
                       cudaStream_t stream) {
  WithType(out_dtype, [&](auto out_tag) {
    using Out = typename decltype(out_tag)::Type;
    if (OperandType(args.layer.v) == DType::kBF16) {
      Launch<__nv_bfloat16>(args, static_cast<Out*>(out), stream);
    } else {
      Launch<__half>(args, static_cast<Out*>(out), stream);
    }
  });
}

}  // namespace palu::cuda
