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

void LoadCodesPortable(const LaneCodes& in, uint8_t* lanes) {
  for (int64_t i = 0; i < in.width; ++i) {
    for (int64_t t = 0; t < kTileLanes; ++t) {
      lanes[(i / 4 * kTileLanes + t) * 4 + i % 4] = CodeAt(in, in.packed + t * in.bytes, i);
    }
  }
}

void LoadValuesPortable(const LaneCodes& in, int64_t stride, uint8_t* lanes) {
  for (int64_t t = 0; t < kTileLanes; ++t) {
    for (int64_t i = 0; i < in.width; ++i) {
      lanes[t / 4 * stride + 4 * i + t % 4] = CodeAt(in, in.packed + t * in.bytes, i);
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

void AddRowsPortable(const LaneRows& in) {
  int32_t sums[kRowGroup * kTileLanes];
  ProductsPortable(in.codes, in.rows, in.quads, sums);
  for (int64_t r = 0; r < kRowGroup; ++r) {
    for (int64_t t = 0; t < kTileLanes; ++t) FinishRow(in, r, t, sums[r * kTileLanes + t]);
  }
}

void SplitWeightsPortable(const LaneWeights& in, PlaneSums* sums) {
  for (int64_t k = 0; k < 2; ++k) {
    float x[kTileLanes] = {};
    for (int64_t t = 0; t < in.tokens && in.p[k] != nullptr; ++t) x[t] = in.p[k][t] * in.scales[t];
    PlaneSums& sum = sums[k] = {.scale = MaxMagnitude(x, kTileLanes) / kMostInPlanes};
    const float inverse = Inverse(sum.scale);
    for (int64_t t = 0; t < kTileLanes; ++t) {
      const int32_t rounded = Nearest(x[t] * inverse);
      const int32_t high = (rounded + 128) >> 8, low = rounded - high * 256;
      int8_t* to = in.planes + PackedRowOffset(2 * k, kTileLanes / 4) + t / 4 * 16 + t % 4;
      to[0] = static_cast<int8_t>(high);
      to[4] = static_cast<int8_t>(low);
      sum.high += static_cast<float>(high) * in.zeros[t];
      sum.low += static_cast<float>(low) * in.zeros[t];
    }
  }
}

void AddValuesPortable(const LaneValues& in) {
  for (int64_t k = 0; k < 2 && in.acc[k] != nullptr; ++k) {
    const int8_t* rows = in.planes + PackedRowOffset(2 * k, kTileLanes / 4);
    for (int64_t i = 0; i < in.count; ++i) {
      int32_t high = 0, low = 0;
      for (int64_t t = 0; t < kTileLanes; ++t) {
        const int32_t code = in.lanes[t / 4 * in.stride + 4 * i + t % 4];
        high += code * rows[t / 4 * 16 + t % 4];
        low += code * rows[t / 4 * 16 + 4 + t % 4];
      }
      in.acc[k][i] += Joined(high, low, in.sums[k]);
    }
  }
}

}  // namespace

const LaneKernels& PortableLaneKernels() {
  static constexpr LaneKernels kKernels = {
      .transpose = TransposePortable,
      .load_codes = LoadCodesPortable,
      .load_values = LoadValuesPortable,
      .products = ProductsPortable,
      .add_rows = AddRowsPortable,
      .add_pairs = [](const LanePairs& p) { AddPairs(p); },
      .add_waves = [](const LaneWaveRows& rows) { AddWaves(rows); },
      .scale_lanes = [](const float* scales, float* scores) { ScaleLanes(scales, scores); },
      .coefficients = [](const LaneCoefficients& c) { Coefficients(c); },
      .split_planes = [](const float* x, const int32_t* weights, int64_t n, int8_t* high,
                         int8_t* low) { return SplitPlanes(x, weights, n, high, low); },
      .round_row = [](const float* x, int64_t n, int8_t* row,
                      int32_t* sum) { return RoundRow(x, n, row, sum); },
      .join_planes = [](const int32_t* high, const int32_t* low, const PlaneSums& planes,
                        float* out) { JoinPlanes(high, low, planes, out); },
      .split_weights = SplitWeightsPortable,
      .add_values = AddValuesPortable,
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
