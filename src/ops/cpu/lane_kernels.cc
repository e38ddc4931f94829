#include "ops/cpu/lane_kernels.h"

#include "ops/cpu/lane_kernels-inl.h"

namespace palu::cpu {
namespace {

void TransposePortable(const void* const* rows, int64_t dwords, void* lanes) {
  auto* out = static_cast<std::byte*>(lanes);
  for (int64_t d = 0; d < dwords; ++d) {
    for (int64_t t = 0; t < kTileLanes; ++t, out += 4) {
      std::memcpy(out, static_cast<const std::byte*>(rows[t]) + 4 * d, 4);
    }
  }
}

void TransposeQuadsPortable(const uint8_t* const* rows, uint8_t* lanes) {
  for (int64_t t = 0; t < kTileLanes; ++t) {
    for (int64_t i = 0; i < kTileLanes; ++i) {
      lanes[(t / 4 * kTileLanes + i) * 4 + t % 4] = rows[t][i];
    }
  }
}

void ProductsPortable(const uint8_t* lanes, const int8_t* rows, int64_t quads, int32_t* sums) {
  for (int64_t r = 0; r < kRowGroup; ++r) {
    for (int64_t t = 0; t < kTileLanes; ++t) {
      int32_t sum = 0;
      for (int64_t q = 0; q < quads; ++q) {
        for (int64_t i = 0; i < 4; ++i) {
          sum += lanes[(q * kTileLanes + t) * 4 + i] * rows[(q * kRowGroup + r) * 4 + i];
        }
      }
      sums[r * kTileLanes + t] = sum;
    }
  }
}

}  // namespace

const LaneKernels& PortableLaneKernels() {
  static constexpr LaneKernels kKernels = {
      .transpose = TransposePortable,
      .transpose_quads = TransposeQuadsPortable,
      .products = ProductsPortable,
      .add_pair = [](const LanePair& p) { AddPair(p); },
      .add_wave = [](const LaneWave& w) { AddWave(w); },
      .coefficients = [](const LaneCoefficients& c) { Coefficients(c); },
      .split_planes = [](const float* x, const int32_t* weights, int64_t n, int8_t* high,
                         int8_t* low) { return SplitPlanes(x, weights, n, high, low); },
      .round_row = [](const float* x, int64_t n, int8_t* row,
                      int32_t* sum) { return RoundRow(x, n, row, sum); },
      .join_planes = [](const int32_t* high, const int32_t* low, const PlaneSums& planes, bool add,
                        float* out) { JoinPlanes(high, low, planes, add, out); },
  };
  return kKernels;
}

const LaneKernels* BestLaneKernels() {
#if defined(__x86_64__)
  static const bool vnni = __builtin_cpu_supports("avx512vnni") &&
                           __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (vnni) return &Avx512LaneKernels();
#endif
  return nullptr;
}

}  // namespace palu::cpu
