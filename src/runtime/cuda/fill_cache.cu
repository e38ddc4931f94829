#include "runtime/fill_cache.h"

#include <algorithm>
#include <vector>

#include "ops/cuda/row_ops.h"
#include "runtime/cuda/device_weights.h"

namespace palu::cuda {
namespace {

constexpr int64_t kTokens = 1024;  // filled at a time

// The finaliser of SplitMix64 (Steele et al. 2014): as good a stream as benchmarks need.
__device__ float Uniform(uint64_t seed, uint64_t index) {
  uint64_t x = seed + index * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  x ^= x >> 31;
  return static_cast<float>(x >> 40) * 0x1p-24f - 0.5f;
}

__global__ void FillKernel(float* x, int64_t n, uint64_t seed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) x[i] = Uniform(seed, static_cast<uint64_t>(i));
}

// Tokens first, first + 1, ... of the only sequence.
__global__ void PlaceKernel(int32_t* sequence, int32_t* index, int32_t first, int32_t count) {
  const int32_t i = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  sequence[i] = 0;
  index[i] = first + i;
}

unsigned Blocks(int64_t n) { return static_cast<unsigned>((n + 255) / 256); }

}  // namespace

void FillRandomOnDevice(const CacheLayout& layout, const CachedSequence& sequence, int64_t tokens,
                        uint64_t seed) {
  Check(cudaSetDevice(sequence.device().index), "choosing the device");
  const Stream stream;
  const int64_t begin = sequence.length(), end = begin + tokens, blocks = BlocksFor(end);
  DeviceBuffer<std::byte*> table(std::max<int64_t>(1, blocks));
  table.Upload(sequence.table().blocks, blocks, stream);
  DeviceBuffer<int32_t> sequences(kTokens), index(kTokens), fault(1), length(1);
  const auto length_after = static_cast<int32_t>(end);
  length.Upload(&length_after, 1, stream);
  DeviceBuffer<std::byte*> window(1);
  std::byte* const window_of = sequence.window();
  window.Upload(&window_of, 1, stream);
  const SequencesView view{table.data(),
                           static_cast<int32_t>(blocks),
                           length.data(),
                           nullptr,
                           1,
                           {window.data(), nullptr, static_cast<int32_t>(layout.recent())}};
  DeviceBuffer<float> rows;
  std::vector<DevicePages> pages;
  for (int64_t l = 0; l < layout.num_layers(); ++l) {
    const LayerCacheLayout& layer = layout.layer(l);
    pages.push_back(UploadPages(layer.k, stream));
    pages.push_back(layer.shared ? DevicePages() : UploadPages(layer.v, stream));
  }
  const auto clip = static_cast<float>(layout.quantization().clip_ratio);
  for (int64_t at = begin; at < end; at += kTokens) {
    const int64_t count = std::min(kTokens, end - at);
    PlaceKernel<<<Blocks(count), 256, 0, stream>>>(
        sequences.data(), index.data(), static_cast<int32_t>(at), static_cast<int32_t>(count));
    for (size_t l = 0; l < pages.size(); l += 2) {
      const int64_t width = pages[l].width + pages[l + 1].width;
      rows.Resize(std::max(rows.size(), count * width));
      const uint64_t stream_seed = (seed << 40) + static_cast<uint64_t>(at) * pages.size() + l;
      FillKernel<<<Blocks(count * width), 256, 0, stream>>>(rows.data(), count * width,
                                                            stream_seed << 20);
      StoreRows({}, {pages[l].view, 0, clip}, {pages[l + 1].view, pages[l].width, clip}, view,
                {sequences.data(), index.data(), nullptr, count},
                MakeMatrix(rows.data(), DType::kF32, count, width), 0, fault.data(), stream);
    }
  }
  Check(cudaGetLastError(), "filling the cache");
  stream.Synchronize();
}

}  // namespace palu::cuda
