#include <algorithm>
#include <cassert>

#include "ops/cuda/attention.h"
#include "ops/cuda/mid_rise.cuh"
#include "ops/cuda/vector.cuh"
#include "ops/paged_kv.h"

namespace palu::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 8;  // latents of a thread: widths and runs are multiples of it

struct RowsArgs {
  std::byte* const* blocks;
  int64_t offset, begin, count, out_stride;
  int32_t width, run, runs;
  bool symmetric, mid_rise;

  __device__ const std::byte* Page(int64_t token) const {
    return blocks[token / kBlockTokens] + offset;
  }
};

// ORs into `codes` the field of kBits bits of eight latents, at bit `to`: field k of byte j belongs
// to latent j + k * plane (docs/cache-layout.md). `aligned`: rows start at multiples of 8 bytes.
template <int kBits>
__device__ void AddField(const uint8_t* bytes, int plane, int at, int to, bool aligned,
                         uint32_t (&codes)[kGroup]) {
  constexpr uint32_t kMask = (1u << kBits) - 1;
  if (aligned && plane % kGroup == 0) {
    const int k = at / plane;
    const uint2 words = *reinterpret_cast<const uint2*>(bytes + at - k * plane);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const uint32_t word = i < 4 ? words.x : words.y;
      codes[i] |= (word >> (i % 4 * 8 + k * kBits) & kMask) << to;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const int k = (at + i) / plane;
    codes[i] |= (uint32_t{bytes[at + i - k * plane]} >> (k * kBits) & kMask) << to;
  }
}

template <int kBits>
__device__ void ReadCodes(const uint8_t* row, int width, int at, uint32_t (&codes)[kGroup]) {
  const bool aligned = width * kBits / 8 % 8 == 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) codes[i] = 0;
  if constexpr (kBits == 3) {
    AddField<2>(row, width / 4, at, 0, aligned, codes);
    AddField<1>(row + width / 4, width / 8, at, 2, aligned, codes);
  } else {
    AddField<kBits>(row, width * kBits / 8, at, 0, aligned, codes);
  }
}

template <int kBits>
class Codes {
 public:
  static __device__ void Read(const RowsArgs& args, int64_t token, int at, float (&x)[kGroup]) {
    const int row = static_cast<int>(token % kBlockTokens);
    const int row_bytes = args.width * kBits / 8;
    const auto* bytes = reinterpret_cast<const uint8_t*>(args.Page(token));
    const uint8_t* scales = bytes + kBlockTokens * row_bytes;
    uint32_t codes[kGroup];
    ReadCodes<kBits>(bytes + row * row_bytes, args.width, at, codes);
    const ScaleZero fit = Fit(args, scales, row * args.runs + at / args.run);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      x[i] = __fmul_rn(static_cast<float>(codes[i]) - fit.zero, fit.scale);
    }
  }

 private:
  struct ScaleZero {
    float scale, zero;
  };
  static __device__ ScaleZero Fit(const RowsArgs& args, const uint8_t* scales, int run) {
    if (args.mid_rise) {
      return {LoadMidRiseScale(scales[run]), static_cast<float>((1 << kBits) - 1) / 2};
    }
    const uint8_t* zeros = scales + kBlockTokens * args.runs * 2;
    return {AsFloat(reinterpret_cast<const __half*>(scales)[run]),
            args.symmetric ? static_cast<float>(1 << (kBits - 1)) : static_cast<float>(zeros[run])};
  }
};

template <class T>
struct Stored {
  static __device__ void Read(const RowsArgs& args, int64_t token, int at, float (&x)[kGroup]) {
    const auto* page = reinterpret_cast<const T*>(args.Page(token));
    Load(page + token % kBlockTokens * args.width + at, x);
  }
};

// threadIdx.x goes along a row, threadIdx.y over tokens.
template <class Source, class T>
__global__ void __launch_bounds__(kThreads)
    ReadRowsKernel(const __grid_constant__ RowsArgs args, T* out) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= args.count) return;
  for (int at = static_cast<int>(threadIdx.x) * kGroup; at < args.width;
       at += static_cast<int>(blockDim.x) * kGroup) {
    float x[kGroup];
    Source::Read(args, args.begin + row, at, x);
    Store(x, out + row * args.out_stride + at);
  }
}

template <class Source>
void Launch(const RowsArgs& args, DType out_dtype, void* out, cudaStream_t stream) {
  unsigned x = 1;  // threads along a row
  while (x < 32 && x * kGroup < static_cast<unsigned>(args.width)) x *= 2;
  const dim3 block(x, kThreads / x);
  const auto grid = static_cast<unsigned>((args.count + block.y - 1) / block.y);
  WithType(out_dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    ReadRowsKernel<Source><<<grid, block, 0, stream>>>(args, static_cast<T*>(out));
  });
  Check(cudaGetLastError(), "launching the reading of a page");
}

void LaunchCodes(const RowsArgs& args, int32_t bits, DType out_dtype, void* out,
                 cudaStream_t stream) {
  switch (bits) {
    case 2:
      return Launch<Codes<2>>(args, out_dtype, out, stream);
    case 3:
      return Launch<Codes<3>>(args, out_dtype, out, stream);
    case 4:
      return Launch<Codes<4>>(args, out_dtype, out, stream);
    case 8:
      return Launch<Codes<8>>(args, out_dtype, out, stream);
  }
  FailWith("expected codes of 2, 3, 4 or 8 bits or elements in a page on the device");
}

}  // namespace

void ReadPageRows(const ProjectionView& projection, const PageView& page, std::byte* const* blocks,
                  int64_t begin, int64_t count, DType out_dtype, void* out, int64_t out_stride,
                  cudaStream_t stream) {
  assert(out_stride % kGroup == 0 && page.width % kGroup == 0 && projection.run % kGroup == 0 &&
         page.offset % 16 == 0);
  if (count == 0) return;
  RowsArgs args{};
  args.blocks = blocks;
  args.offset = page.offset;
  args.begin = begin;
  args.count = count;
  args.out_stride = out_stride;
  if (projection.bits == kTiers) {
    args.mid_rise = true;
    args.runs = 1;
    for (int32_t t = 0; t < page.tier_count; ++t) {
      const TierView& tier = page.tiers[t];
      args.offset = page.offset + tier.offset;
      args.width = args.run = tier.width;
      LaunchCodes(args, tier.bits, out_dtype,
                  static_cast<std::byte*>(out) + tier.column * SizeOf(out_dtype), stream);
    }
    return;
  }
  args.width = page.width;
  const bool whole = projection.run == 0 || projection.run > page.width;
  args.run = whole ? page.width : projection.run;
  args.runs = (args.width + args.run - 1) / args.run;
  args.symmetric = projection.symmetric;
  if (projection.bits < 16) return LaunchCodes(args, projection.bits, out_dtype, out, stream);
  WithType(projection.dtype, [&](auto tag) {
    Launch<Stored<typename decltype(tag)::Type>>(args, out_dtype, out, stream);
  });
}

}  // namespace palu::cuda
