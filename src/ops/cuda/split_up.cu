// U of keys as decode attention by the frequency split reads it (split_plan.h).
#include <cuda_fp16.h>

#include "ops/cuda/split_plan.h"
#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

__device__ inline float WarpMax(float x) {
#pragma unroll
  for (int mask = 16; mask >= 1; mask /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, mask));
  return x;
}

// One warp for each rotary pair of a head.
__global__ void PairBounds(const __half* up, int half, int width, float* bounds) {
  const int pair = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x);
  const int row = pair / half * 2 * half + pair % half;
  float most = 0;
  for (int i = lane; i < width; i += 32) {
    const float x = __half2float(up[int64_t{row} * width + i]);
    const float y = __half2float(up[int64_t{row + half} * width + i]);
    most = fmaxf(most, x * x + y * y);
  }
  most = WarpMax(most);
  if (lane == 0) bounds[pair] = sqrtf(most);
}

// Where a slot stands in a row of U of slow pairs: a lane of the product holds two columns of each
// tile of eight, and 16 bytes of slots that follow each other are those of its tiles.
template <int kBits>
__host__ __device__ constexpr int SlowColumn(int slot) {
  constexpr int kOwn = 16 / RowElementBytes(kBits);  // slots in 16 bytes
  const int piece = slot / (4 * kOwn), c = slot / kOwn % 4, e = slot % kOwn;
  return piece * 4 * kOwn + e / 2 * 8 + 2 * c + e % 2;
}

// One thread for each element: rows 2 f and 2 f + 1 are the two members of slow pair f.
template <int kBits>
__global__ void PackSlow(const __half* up, int half, int pairs, int width, int slots,
                         __half* packed) {
  const int slow = half - pairs, depth = SlowDepth(2 * half, pairs);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int latent = i % width, row = i / width % depth, head = i / width / depth;
  if (row >= 2 * slow) return;
  const int source = head * 2 * half + pairs + row / 2 + row % 2 * half;
  const int column = SlowColumn<kBits>(RowSlot(kBits, width, latent));
  packed[int64_t{head} * depth * slots + OperandByte(slots, column, 2 * row) / 2] =
      up[int64_t{source} * width + latent];
}

// One warp for each fast pair of a head: its two rows as bytes with one scale, since rotation mixes
// them.
template <int kBits>
__global__ void PackFast(const __half* up, int half, SplitForm form, int width, int unit_bytes,
                         std::byte* rows, float* scales) {
  const int pair = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x);
  const __half* x = up + (int64_t{head} * 2 * half + pair) * width;
  const __half* y = x + int64_t{half} * width;
  float most = 0;
  for (int i = lane; i < width; i += 32) {
    most = fmaxf(most, fmaxf(fabsf(__half2float(x[i])), fabsf(__half2float(y[i]))));
  }
  most = WarpMax(most);
  const float scale = most > 0 ? most / 127.0f : 1.0f;
  if (lane == 0) scales[head * form.pairs + pair] = scale;
  std::byte* out = rows + head / form.heads * unit_bytes;
  const int row = (head % form.heads * form.pairs + pair) * 2;
  for (int i = lane; i < width; i += 32) {
    const int slot = RowSlot(kBits, width, i);
    const auto store = [&](int to, __half from) {
      const int code = __float2int_rn(__half2float(from) / scale);
      out[OperandByte(form.fast_rows(), to, slot)] = static_cast<std::byte>(code & 0xFF);
    };
    store(row, x[i]);
    store(row + 1, y[i]);
  }
}

template <int kBits>
void Pack(const ProjectionView& keys, const PageView& page, int32_t head_dim, const SplitForm& form,
          const SplitUp& at, std::byte* packed, cudaStream_t stream) {
  const auto* up = static_cast<const __half*>(page.up);
  const int half = head_dim / 2, slots = SplitRowSlots(keys);
  PairBounds<<<kSplitPageHeads * half, 32, 0, stream>>>(
      up, half, page.width, reinterpret_cast<float*>(packed + at.bounds));
  // A multiple of 128: four heads, depths of 16 and widths of 16.
  const int threads = kSplitPageHeads * SlowDepth(head_dim, form.pairs) * page.width;
  PackSlow<kBits><<<threads / 128, 128, 0, stream>>>(up, half, form.pairs, page.width, slots,
                                                     reinterpret_cast<__half*>(packed + at.slow));
  if constexpr (IntegerRows(kBits)) {
    if (form.grouped) {
      PackFast<kBits><<<dim3(static_cast<unsigned>(form.pairs), kSplitPageHeads), 32, 0, stream>>>(
          up, half, form, page.width, form.fast_rows() * slots, packed + at.fast,
          reinterpret_cast<float*>(packed + at.scales));
    }
  }
  Check(cudaGetLastError(), "packing U");
}

}  // namespace

void PackSplitUp(const ProjectionView& keys, const PageView& page, int32_t head_dim,
                 int32_t queries, void* packed, cudaStream_t stream) {
  const SplitForm form = SplitFormOf(queries);
  const SplitUp at = LayOutSplitUp(keys, head_dim, form);
  auto* bytes = static_cast<std::byte*>(packed);
  Check(cudaMemsetAsync(bytes, 0, static_cast<size_t>(at.bytes), stream), "packing U");
  switch (keys.bits) {
    case 2:
      return Pack<2>(keys, page, head_dim, form, at, bytes, stream);
    case 3:
      return Pack<3>(keys, page, head_dim, form, at, bytes, stream);
    case 4:
      return Pack<4>(keys, page, head_dim, form, at, bytes, stream);
    case 8:
      return Pack<8>(keys, page, head_dim, form, at, bytes, stream);
    default:
      return Pack<16>(keys, page, head_dim, form, at, bytes, stream);
  }
}

}  // namespace palu::cuda
