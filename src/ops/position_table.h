// Cosines and sines of RoPE by position, computed once and shared by all layers and sequences:
// 4 * head_dim bytes per position that occurs, twice that where they are kept by pairs, too.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace palu {

// How the angle position * inverse_frequency is formed.
//   kFloat32  both factors and the product rounded to float32, as the reference implementations in
//             Python do and models are trained; the rounding reaches 2e-4 rad at position 5000 and
//             0.03 rad at 1M, and is the same for queries and keys
//   kFloat64  good to float32 precision at any position
enum class RopeAngles { kFloat32, kFloat64 };

class PositionTable {
 public:
  // inverse_frequencies: [head_dim / 2], radians per position. by_pairs: for ByPairs.
  PositionTable(std::vector<double> inverse_frequencies, RopeAngles angles, bool by_pairs = false);

  // Makes [begin, end) available. Not thread safe, unlike the reading functions.
  void Cover(int64_t begin, int64_t end);

  // [head_dim / 2] of a covered position.
  const float* Cos(int64_t position) const { return Row(position, 0); }
  const float* Sin(int64_t position) const { return Row(position, 1); }

  // The cosines of kRun positions from `position` on, [head_dim / 2, kRun], and then their sines;
  // null where they are not kept so, or position is no multiple of kRun.
  static constexpr int64_t kRun = 64;
  const float* ByPairs(int64_t position) const {
    if (!by_pairs_ || position % kRun != 0) return nullptr;
    return runs_.at(position / kPage).Row(position % kPage / kRun);
  }

  // Cosines and then sines, [2 * head_dim / 2], of each of the positions from `position` on.
  void Rows(int64_t position, std::span<const float*> rows) const;

  // Rotates keys [count, head_dim] of positions position, position + 1, ... in place.
  void Rotate(int64_t position, MatrixView<float> keys) const;

  int64_t half() const { return static_cast<int64_t>(inverse_frequencies_.size()); }
  int64_t bytes() const;

 private:
  static constexpr int64_t kPage = 1024;  // positions

  // Sines lie right after the cosines.
  const float* Row(int64_t position, int64_t part) const {
    return pages_.at(position / kPage).Row(2 * (position % kPage) + part);
  }

  std::vector<double> inverse_frequencies_;
  RopeAngles angles_;
  bool by_pairs_;
  std::map<int64_t, Matrix<float>> pages_;  // [2 * kPage, head_dim / 2], cos and sin rows in turn
  std::map<int64_t, Matrix<float>> runs_;   // the same by pairs [kPage / kRun, head_dim * kRun]
};

}  // namespace palu
