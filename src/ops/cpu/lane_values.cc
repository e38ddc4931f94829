#include "ops/cpu/lane_values.h"

#include <array>
#include <cassert>

#include "ops/cpu/lane_kernels.h"

namespace palu::cpu {
namespace {

constexpr int64_t kQuads = kTileLanes / 4;

// 64 latents from `begin` on of every token, in quads of tokens. The last token fills the tile; a
// row's end is filled with zeros.
void LoadLanes(const LaneKernels& kernels, const CodeTile& tile, int64_t tokens, int64_t begin,
               uint8_t* lanes) {
  std::array<const uint8_t*, kTileLanes> rows;
  std::array<uint8_t, kTileLanes * kTileLanes> ends;
  const int64_t count = std::min(kTileLanes, tile.width - begin);
  for (int64_t t = 0; t < kTileLanes; ++t) {
    const auto i = static_cast<size_t>(t);
    rows[i] = tile.codes.data() + std::min(t, tokens - 1) * tile.width + begin;
    if (count == kTileLanes) continue;
    uint8_t* end = ends.data() + t * kTileLanes;
    std::fill(std::copy_n(rows[i], count, end), end + kTileLanes, uint8_t{0});
    rows[i] = end;
  }
  kernels.transpose_quads(rows.data(), lanes);
}

}  // namespace

bool AccumulateCodesInLanes(MatrixView<const float> p, const CodeTile& tile, LaneScratch& scratch,
                            MatrixView<float> acc) {
  assert(p.cols <= kTileLanes && tile.width == acc.cols);
  if (BestLaneKernels() == nullptr || tile.runs != 1) return false;
  const LaneKernels& kernels = *BestLaneKernels();
  scratch.offsets.assign(kTileLanes, 0);  // zeros, an integer each
  for (int64_t t = 0; t < p.cols; ++t) {
    scratch.offsets[static_cast<size_t>(t)] =
        static_cast<int32_t>(tile.zeros[static_cast<size_t>(t)]);
  }
  scratch.planes.Resize(PackedRowBytes(2 * p.rows, kQuads));
  if (p.rows % 2 != 0) std::fill_n(scratch.planes.data(), scratch.planes.size(), int8_t{0});
  std::vector<PlaneSums> planes(static_cast<size_t>(p.rows));
  alignas(64) std::array<float, kTileLanes> weights{};
  for (int64_t g = 0; g < p.rows; ++g) {
    for (int64_t t = 0; t < p.cols; ++t) {
      weights[static_cast<size_t>(t)] = p(g, t) * tile.scales[static_cast<size_t>(t)];
    }
    int8_t* high = scratch.planes.data() + PackedRowOffset(2 * g, kQuads);
    planes[static_cast<size_t>(g)] =
        kernels.split_planes(weights.data(), scratch.offsets.data(), kTileLanes, high, high + 4);
  }
  scratch.lanes.Resize(kTileLanes * kTileLanes);
  scratch.sums.Resize(kRowGroup * kTileLanes);
  for (int64_t begin = 0; begin < tile.width; begin += kTileLanes) {
    LoadLanes(kernels, tile, p.cols, begin, scratch.lanes.data());
    const int64_t count = std::min(kTileLanes, tile.width - begin);
    for (int64_t g = 0; g < p.rows; ++g) {
      if (g % 2 == 0) {
        kernels.products(scratch.lanes.data(),
                         scratch.planes.data() + PackedRowOffset(2 * g, kQuads), kQuads,
                         scratch.sums.data());
      }
      const int32_t* high = scratch.sums.data() + g % 2 * 2 * kTileLanes;
      const PlaneSums& sums = planes[static_cast<size_t>(g)];
      if (count == kTileLanes) {
        kernels.join_planes(high, high + kTileLanes, sums, true, acc.Row(g) + begin);
        continue;
      }
      kernels.join_planes(high, high + kTileLanes, sums, false, weights.data());
      for (int64_t i = 0; i < count; ++i) acc(g, begin + i) += weights[static_cast<size_t>(i)];
    }
  }
  return true;
}

}  // namespace palu::cpu
