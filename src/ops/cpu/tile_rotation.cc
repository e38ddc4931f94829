#include "ops/tile_rotation.h"

#include <cassert>
#include <cmath>
#include <numeric>

#include "ops/rope.h"

namespace palu {

TileRotation::TileRotation(std::span<const double> inverse_frequencies)
    : inverse_frequencies_(inverse_frequencies.begin(), inverse_frequencies.end()) {
  const auto half = static_cast<int64_t>(inverse_frequencies.size());
  std::vector<int64_t> positions(kMaxTile);
  std::iota(positions.begin(), positions.end(), 0);
  cos_.Resize(kMaxTile, half);
  sin_.Resize(kMaxTile, half);
  FillCosSin(positions, inverse_frequencies_, cos_, sin_);
}

void TileRotation::Rotate(int64_t position, MatrixView<float> keys) const {
  assert(keys.rows <= kMaxTile);
  const int64_t half = cos_.cols();
  Matrix<float> base(2, half), row(2, half);
  const int64_t positions[] = {position};
  FillCosSin(positions, inverse_frequencies_, base.View().RowRange(0, 1), base.View().RowRange(1, 1));
  const float* base_cos = base.Row(0);
  const float* base_sin = base.Row(1);
  for (int64_t t = 0; t < keys.rows; ++t) {
    const float* step_cos = cos_.Row(t);
    const float* step_sin = sin_.Row(t);
    for (int64_t f = 0; f < half; ++f) {
      row(0, f) = base_cos[f] * step_cos[f] - base_sin[f] * step_sin[f];
      row(1, f) = base_sin[f] * step_cos[f] + base_cos[f] * step_sin[f];
    }
    ApplyRope(keys.Row(t), 1, half, row.Row(0), row.Row(1));
  }
}

}  // namespace palu
