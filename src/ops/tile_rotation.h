// RoPE for runs of consecutive positions: cos and sin of the run's first position come from float64,
// those of the steps inside a tile from a table, joined by angle addition (error about 2 ulp).
#pragma once

#include <span>

#include "tensor/tensor.h"

namespace palu {

class TileRotation {
 public:
  static constexpr int64_t kMaxTile = 256;  // consecutive positions

  TileRotation() = default;
  explicit TileRotation(std::span<const double> inverse_frequencies);  // [d/2]

  // Rotates keys [count, d], count <= kMaxTile, of positions position, position + 1, ...
  void Rotate(int64_t position, MatrixView<float> keys) const;

 private:
  std::vector<double> inverse_frequencies_;
  Matrix<float> cos_, sin_;  // [kMaxTile, d/2] of 0, 1, 2, ...
};

}  // namespace palu
