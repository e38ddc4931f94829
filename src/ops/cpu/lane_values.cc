#include "ops/cpu/lane_values.h"

#include <cassert>

#include "ops/cpu/lane_kernels.h"

namespace palu::cpu {
namespace {

constexpr int64_t kQuads = kTileLanes / 4;
constexpr int64_t kVector = 16;  // latents whose lanes are read together

}  // namespace

bool AccumulateCodesInLanes(MatrixView<const float> p, const LatentQuantization& quantization,
                            const PackedRows& rows, LaneScratch& scratch, MatrixView<float> acc) {
  assert(p.cols <= kTileLanes && rows.width == acc.cols);
  if (BestLaneKernels() == nullptr || quantization.runs(rows.width) != 1) return false;
  const LaneKernels& kernels = *BestLaneKernels();
  scratch.scales.Resize(kTileLanes);
  scratch.zeros.Resize(kTileLanes);
  LoadScales(quantization, rows, p.cols, scratch.scales.data(), scratch.zeros.data());
  std::fill_n(scratch.scales.data() + p.cols, kTileLanes - p.cols, 0.0f);
  std::fill_n(scratch.zeros.data() + p.cols, kTileLanes - p.cols, 0.0f);
  const int64_t stride = (rows.width + kVector - 1) / kVector * kVector * 4;
  scratch.lanes.Resize(kQuads * stride);
  kernels.load_values(
      {rows.codes, quantization.code_bytes(rows.width), rows.width, quantization.bits}, stride,
      scratch.lanes.data());
  scratch.planes.Resize(PackedRowBytes(kRowGroup, kQuads));
  for (int64_t g = 0; g < p.rows; g += 2) {
    const bool both = g + 1 < p.rows;
    PlaneSums sums[2];
    kernels.split_weights({.p = {p.Row(g), both ? p.Row(g + 1) : nullptr},
                           .scales = scratch.scales.data(),
                           .zeros = scratch.zeros.data(),
                           .tokens = p.cols,
                           .planes = scratch.planes.data()},
                          sums);
    for (int64_t begin = 0; begin < rows.width; begin += kTileLanes) {
      kernels.add_values({.lanes = scratch.lanes.data() + 4 * begin,
                          .stride = stride,
                          .planes = scratch.planes.data(),
                          .sums = sums,
                          .count = std::min(kTileLanes, rows.width - begin),
                          .acc = {acc.Row(g) + begin, both ? acc.Row(g + 1) + begin : nullptr}});
    }
  }
  return true;
}

}  // namespace palu::cpu
