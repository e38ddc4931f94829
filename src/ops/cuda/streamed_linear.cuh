// The kernel of streamed_linear.h; instances are compiled by weight type.
//
// The grid fills the device once and each warp takes units of rows of W in turn. W comes through a
// ring in shared memory that is the warp's own: a stage is kStageLoads copies of 16 bytes per lane,
// which reads back what it copied itself, so that no barrier is needed. The ring is filled before
// the previous kernel has ended, and neither the end of a unit nor its sums interrupt the stream.
#pragma once

#include <algorithm>
#include <array>

#include "ops/cuda/async_copy.cuh"
#include "ops/cuda/element.cuh"
#include "ops/cuda/launch_early.cuh"
#include "ops/cuda/reduce.cuh"
#include "ops/cuda/stream_arguments.h"

namespace palu::cuda {

inline constexpr int kStreamWarps = 8;
// Blocks per multiprocessor, which leave no room for another: the next kernel's early blocks then
// spread as evenly as these end.
inline constexpr int kStreamResident = 2;
inline constexpr int kStageLoads = 4;
inline constexpr int kWarpStageBytes = kStageLoads * 32 * 16;
static_assert(kStreamWarps * kWarpStageBytes == kStageBytes);

// A lane's columns of a step lie 16 bytes of W apart; a stage takes kUnroll steps of R rows.
template <class T, int R>
struct Stage {
  static constexpr int kPack = Pack<T>::kSize;
  static constexpr int kUnroll = kStageLoads / R;
  static constexpr int kStep = 32 * kPack;
  static constexpr int kColumns = kUnroll * kStep;
};

// Where column c of a row lies in shared memory: a lane's columns of a step as planes of four, so
// that lanes read 16 bytes side by side.
template <class T>
__device__ inline int Place(int c) {
  constexpr int kPack = Pack<T>::kSize, kStep = 32 * kPack;
  return c / kStep * kStep + c % kPack / 4 * 128 + c % kStep / kPack * 4 + c % 4;
}

// Puts x, times norm.weight where there is one, into `shared` [M, padded], zeros behind k, and
// returns 1 / rms of each row, which the sums are multiplied by at the end. All threads of the
// block; ends with a barrier.
template <class T, int M, bool kNormed>
__device__ inline void LoadRows(const StreamArguments& a, int padded, float* shared,
                                float (&factors)[M]) {
  __shared__ float squares[kStreamWarps][M];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float sum = 0;
#pragma unroll 4
    for (int c = thread * 4; c < padded; c += 32 * kStreamWarps * 4) {
      float4 v = {0, 0, 0, 0};
      if (c < a.k) {
        v = __ldcg(reinterpret_cast<const float4*>(a.x + m * a.x_stride + c));
        if constexpr (kNormed) {
          sum = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
          const float4 w = *reinterpret_cast<const float4*>(a.norm.weight + c);
          v = {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w};
        }
      }
      *reinterpret_cast<float4*>(shared + m * padded + Place<T>(c)) = v;
    }
    if constexpr (kNormed) {
      sum = WarpSum(sum);
      if (thread % 32 == 0) squares[warp][m] = sum;
    }
  }
  __syncthreads();
#pragma unroll
  for (int m = 0; m < M; ++m) {
    float sum = 0;
    if constexpr (kNormed) {
#pragma unroll
      for (int w = 0; w < kStreamWarps; ++w) sum += squares[w][m];
    }
    factors[m] = kNormed ? 1.0f / sqrtf(sum / static_cast<float>(a.k) + a.norm.eps) : 1.0f;
  }
}

template <class T>
__device__ inline Pack<T> LoadSharedPack(uint32_t shared) {
  uint4 bits;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "r"(shared)
               : "memory");
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = bits;
  return pack;
}

// kNormed: with RMSNorm; kGated: SwiGLU of R = 2 rows; kDepth: stages of a ring.
template <class T, int M, bool kNormed, bool kGated, int kDepth>
__global__ void __launch_bounds__(32 * kStreamWarps, kStreamResident)
    StreamKernel(const __grid_constant__ StreamArguments a) {
  constexpr int R = kGated ? 2 : 1;
  using Shape = Stage<T, R>;
  constexpr int kPack = Shape::kPack, kUnroll = Shape::kUnroll;
  extern __shared__ __align__(16) float shared[];  // the rings, then x
  LetNextKernelStart();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 32, 0);
  const uint32_t ring = SharedAddress(shared) + warp * (kDepth * kWarpStageBytes) + lane * 16;
  float* const rows = shared + kDepth * kStageBytes / sizeof(float);
  // A block takes rows side by side: a multiprocessor touches few pages of memory then, whose
  // addresses it must have translated.
  const auto share = [&](unsigned block) {
    return static_cast<int>(int64_t{a.units} * block / gridDim.x);
  };
  const int first = share(blockIdx.x) + warp, end = share(blockIdx.x + 1);

  int ahead_unit = first, ahead_column = 0;
  const auto fetch = [&](uint32_t slot) {
    if (ahead_unit < end) {
      const T* weights = static_cast<const T*>(a.weight) + ahead_unit * a.weight_stride;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int at = ahead_column + u * Shape::kStep + lane * kPack;
#pragma unroll
        for (int r = 0; r < R; ++r) {
          CopyAsync16(slot + (u * R + r) * 512, weights + r * a.up_offset * a.weight_stride + at,
                      at < a.k);
        }
      }
      ahead_column += Shape::kColumns;
      if (ahead_column >= a.k) {
        ahead_column = 0;
        ahead_unit += kStreamWarps;
      }
    }
    CommitCopies();  // empty behind the last unit, to keep the count
  };
#pragma unroll
  for (int s = 0; s < kDepth; ++s) fetch(ring + s * kWarpStageBytes);
  WaitForPreviousKernel();

  const int padded = PaddedColumns(a.k);
  float factors[M];
  LoadRows<T, M, kNormed>(a, padded, rows, factors);

  float sums[R][M] = {};
  const auto consume = [&](uint32_t slot, int column) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int step = column + u * Shape::kStep;
      Pack<T> w[R];
#pragma unroll
      for (int r = 0; r < R; ++r) w[r] = LoadSharedPack<T>(slot + (u * R + r) * 512);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        float x[kPack];
#pragma unroll
        for (int i = 0; i < kPack; i += 4) {
          const float4 four =
              *reinterpret_cast<const float4*>(rows + m * padded + step + i * 32 + lane * 4);
          x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
#pragma unroll
          for (int r = 0; r < R; ++r) {
            sums[r][m] = fmaf(AsFloat(w[r].values[i]), x[i], sums[r][m]);
          }
        }
      }
    }
  };
  const auto finish = [&](int unit) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      float result[R];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        result[r] = WarpSum(sums[r][m]);
        if constexpr (kNormed) result[r] *= factors[m];
        if (a.bias != nullptr) result[r] += a.bias[unit + r * a.up_offset];
        sums[r][m] = 0;
      }
      if (lane != 0) continue;
      float* target = a.y + m * a.y_stride + unit;
      if constexpr (kGated) {
        *target = result[0] / (1.0f + expf(-result[0])) * result[1];
      } else {
        *target = a.accumulate ? __ldcg(target) + result[0] : result[0];
      }
    }
  };

  uint32_t slot = ring;
  for (int unit = first; unit < end; unit += kStreamWarps) {
    for (int column = 0; column < a.k; column += Shape::kColumns) {
      WaitForCopies<kDepth - 1>();
      consume(slot, column);
      fetch(slot);
      slot = slot == ring + (kDepth - 1) * kWarpStageBytes ? ring : slot + kWarpStageBytes;
    }
    finish(unit);
  }
}

template <class T, int M, bool kNormed, bool kGated, int kDepth>
void LaunchStreamOfDepth(const StreamArguments& a, int multiprocessors, cudaStream_t stream) {
  const auto kernel = StreamKernel<T, M, kNormed, kGated, kDepth>;
  const size_t shared =
      kDepth * kStageBytes + static_cast<size_t>(M * PaddedColumns(a.k)) * sizeof(float);
  int resident = 0;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared)),
        "reserving shared memory for a product");
  Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, 32 * kStreamWarps, shared),
        "planning a product");
  const int blocks = std::min((a.units + kStreamWarps - 1) / kStreamWarps,
                              std::clamp(resident, 1, kStreamResident) * multiprocessors);
  LaunchEarly(kernel, dim3(static_cast<unsigned>(blocks)), 32 * kStreamWarps, shared, stream, a);
}

template <class T, int M, bool kNormed, bool kGated>
void LaunchStream(const StreamArguments& a, cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  Check(cudaGetDevice(&device), "asking for the device");
  Check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "reading device properties");
  if constexpr (M == 1) {
    if (RowsBeside(kStages, a.k) == 0) {
      return LaunchStreamOfDepth<T, M, kNormed, kGated, kFewStages>(a, multiprocessors, stream);
    }
  }
  LaunchStreamOfDepth<T, M, kNormed, kGated, kStages>(a, multiprocessors, stream);
}

// The instances of a weight type by rows, in the order of M.
template <class T, bool kNormed, bool kGated>
void LaunchStreamOfRows(int64_t rows, const StreamArguments& a, cudaStream_t stream) {
  constexpr std::array kLaunch = {
      LaunchStream<T, 1, kNormed, kGated>, LaunchStream<T, 2, kNormed, kGated>,
      LaunchStream<T, 3, kNormed, kGated>, LaunchStream<T, 4, kNormed, kGated>};
  kLaunch[static_cast<size_t>(rows - 1)](a, stream);
}

template <class T>
void LaunchStreamOfType(int64_t rows, const StreamArguments& a, cudaStream_t stream) {
  if (a.norm.weight == nullptr) return LaunchStreamOfRows<T, false, false>(rows, a, stream);
  if (a.up_offset == 0) return LaunchStreamOfRows<T, true, false>(rows, a, stream);
  LaunchStreamOfRows<T, true, true>(rows, a, stream);
}

}  // namespace palu::cuda
