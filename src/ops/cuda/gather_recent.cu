#include "ops/cuda/row_ops.h"
#include "ops/cuda/vector.cuh"

namespace palu::cuda {
namespace {

constexpr int kThreads = 128;

struct GatherArguments {
  const PageView* pages;
  const std::byte* const* window;  // of the sequence
  int32_t recent;
  int64_t first, begin, start;
  const float* x;
  int64_t x_stride, out_stride;
};

// grid: (rows, pages).
template <class T>
__global__ void __launch_bounds__(kThreads)
    GatherKernel(const __grid_constant__ GatherArguments a, T* out) {
  const PageView& page = a.pages[blockIdx.y];
  const int64_t token = a.first + blockIdx.x;
  T* to = out + blockIdx.x * a.out_stride + page.column;
  const auto* ring = reinterpret_cast<const __half*>(*a.window + page.window_offset);
  for (int i = static_cast<int>(threadIdx.x); i < page.width; i += kThreads) {
    __half latent{};
    if (token >= a.start) {
      latent = __float2half_rn(a.x[(token - a.start) * a.x_stride + page.column + i]);
    } else if (token >= a.begin) {
      latent = ring[token % a.recent * page.width + i];
    }
    to[i] = FromFloat<T>(__half2float(latent));
  }
}

}  // namespace

void GatherRecent(const StoreView& latents, const SequencesView& sequence, int64_t first,
                  int64_t begin, int64_t start, const DeviceMatrix& x, const DeviceMatrix& out,
                  cudaStream_t stream) {
  if (out.rows == 0) return;
  const RecentView& recent = sequence.recent;
  const GatherArguments arguments{latents.projection.pages,
                                  recent.windows,
                                  recent.tokens,
                                  first,
                                  begin,
                                  start,
                                  static_cast<const float*>(x.data) + latents.column,
                                  x.stride,
                                  out.stride};
  const dim3 grid(static_cast<unsigned>(out.rows),
                  static_cast<unsigned>(latents.projection.page_count));
  WithType(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    GatherKernel<T><<<grid, kThreads, 0, stream>>>(arguments, static_cast<T*>(out.data));
  });
  Check(cudaGetLastError(), "gathering recent latents");
}

}  // namespace palu::cuda
