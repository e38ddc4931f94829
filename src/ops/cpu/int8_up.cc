#include "ops/int8_up.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "ops/convert.h"
#include "ops/cpu/int8_up_kernel.h"

namespace palu {
namespace cpu {

void Int8BlockPortable(const Int8Block& b) {
  for (int64_t t = 0; t < b.tokens; ++t) {
    const uint8_t* codes = b.codes + t * b.code_stride;
    const float scale = b.scales[t * b.scale_stride], zero = b.zeros[t * b.scale_stride];
    float* keys = b.keys + t * b.key_stride;
    for (int64_t f = 0; f < b.head_dim; ++f) {
      int32_t sum = 0;
      for (int64_t c = 0; c < b.quads; ++c) {
        for (int64_t i = 0; i < 4; ++i) {
          sum += codes[c * 4 + i] * b.up[(c * b.padded + f) * 4 + i];
        }
      }
      const float key = (static_cast<float>(sum) - zero * b.up_sums[f]) * (scale * b.up_scales[f]);
      keys[f] = b.add ? key + keys[f] : key;
    }
  }
}

namespace {

struct Kernel {
  std::string_view name;
  void (*run)(const Int8Block&);
  bool rotates;
};

const Kernel& BestKernel() {
  static const Kernel kernel = []() -> Kernel {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      return {"AVX-512 VNNI", Int8BlockAvx512Vnni, true};
    }
    if (__builtin_cpu_supports("avx2")) return {"AVX2", Int8BlockAvx2, false};
#endif
    return {"portable", Int8BlockPortable, false};
  }();
  return kernel;
}

}  // namespace
}  // namespace cpu

void CodeTile::Resize(const LatentQuantization& quantization, int64_t page_width, int64_t tokens) {
  width = page_width;
  run = quantization.run(width);
  runs = quantization.runs(width);
  codes.Resize(tokens * width);
  scales.resize(static_cast<size_t>(tokens * runs));
  zeros.resize(static_cast<size_t>(tokens * runs));
}

void CodeTile::Load(const LatentQuantization& quantization, const PackedRows& rows, int64_t at,
                    int64_t tokens) {
  UnpackCodes(quantization, rows, tokens, codes.data() + at * width);
  if (runs == 1) {  // one after the other, as in the tile
    return LoadScales(quantization, rows, tokens, scales.data() + at, zeros.data() + at);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < runs; ++r) {
      const ScaleZero found = ScaleOf(quantization, rows, t, r);
      const auto i = static_cast<size_t>((at + t) * runs + r);
      scales[i] = found.scale;
      zeros[i] = found.zero;
    }
  }
}

Int8Up::Int8Up(const TensorView& up, int64_t run)
    : head_dim_(up.rows()), padded_((head_dim_ + 15) / 16 * 16), width_(up.cols()), run_(run) {
  assert(width_ % kLatentMultiple == 0 && run % kLatentMultiple == 0);
  std::vector<float> rows(static_cast<size_t>(head_dim_ * width_));
  ToFloat(up, rows.data());
  const int64_t runs = (width_ + run_ - 1) / run_;
  packed_.Resize(width_ * padded_);
  std::fill_n(packed_.data(), packed_.size(), int8_t{0});
  scales_.assign(static_cast<size_t>(padded_), 0.0f);
  sums_.assign(static_cast<size_t>(runs * padded_), 0.0f);
  for (int64_t f = 0; f < head_dim_; ++f) {
    const float* row = rows.data() + f * width_;
    float max = 0;
    for (int64_t r = 0; r < width_; ++r) max = std::max(max, std::abs(row[r]));
    const float scale = max / 127;
    scales_[static_cast<size_t>(f)] = scale;
    for (int64_t r = 0; r < width_ && scale > 0; ++r) {
      const float rounded = std::clamp(std::nearbyint(row[r] / scale), -127.0f, 127.0f);
      packed_.data()[(r / 4 * padded_ + f) * 4 + r % 4] = static_cast<int8_t>(rounded);
      sums_[static_cast<size_t>(r / run_ * padded_ + f)] += rounded;
    }
  }
}

std::vector<float> Int8Up::Row(int64_t f) const {
  std::vector<float> row(static_cast<size_t>(width_));
  for (int64_t r = 0; r < width_; ++r) {
    row[static_cast<size_t>(r)] = scale(f) * At(f, r);
  }
  return row;
}

void Int8Up::Rebuild(const CodeTile& tile, int64_t tokens, MatrixView<float> keys) const {
  Run(tile, tokens, nullptr, keys);
}

bool Int8Up::RebuildRotated(const CodeTile& tile, int64_t tokens, const float* const* rotations,
                            MatrixView<float> keys) const {
  if (!cpu::BestKernel().rotates || head_dim_ % 32 != 0 || tile.runs != 1) return false;
  Run(tile, tokens, rotations, keys);
  return true;
}

void Int8Up::Run(const CodeTile& tile, int64_t tokens, const float* const* rotations,
                 MatrixView<float> keys) const {
  assert(tile.width == width_ && tile.run == run_ && keys.cols == head_dim_);
  for (int64_t r = 0; r < tile.runs; ++r) {
    const int64_t begin = r * run_, count = std::min(run_, width_ - begin);
    cpu::BestKernel().run({.codes = tile.codes.data() + begin,
                           .code_stride = width_,
                           .up = packed_.data() + begin * padded_,
                           .quads = count / 4,
                           .padded = padded_,
                           .head_dim = head_dim_,
                           .up_scales = scales_.data(),
                           .up_sums = sums_.data() + r * padded_,
                           .scales = tile.scales.data() + r,
                           .zeros = tile.zeros.data() + r,
                           .scale_stride = tile.runs,
                           .tokens = tokens,
                           .keys = keys.data,
                           .key_stride = keys.stride,
                           .add = r > 0,
                           .rotations = rotations});
  }
}

std::string_view Int8Up::KernelName() { return cpu::BestKernel().name; }

}  // namespace palu
