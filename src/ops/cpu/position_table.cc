#include "ops/position_table.h"

#include <cassert>
#include <cmath>

#include "ops/rope.h"

namespace palu {

PositionTable::PositionTable(std::vector<double> inverse_frequencies, RopeAngles angles,
                             bool by_pairs)
    : inverse_frequencies_(std::move(inverse_frequencies)), angles_(angles), by_pairs_(by_pairs) {}

void PositionTable::Cover(int64_t begin, int64_t end) {
  assert(begin >= 0);
  for (int64_t p = begin / kPage; p * kPage < end; ++p) {
    if (pages_.contains(p)) continue;
    Matrix<float> page(2 * kPage, half());
    for (int64_t i = 0; i < kPage; ++i) {
      const int64_t position = p * kPage + i;
      for (int64_t f = 0; f < half(); ++f) {
        const double frequency = inverse_frequencies_[static_cast<size_t>(f)];
        const double angle =
            angles_ == RopeAngles::kFloat64
                ? static_cast<double>(position) * frequency
                : static_cast<double>(static_cast<float>(position) * static_cast<float>(frequency));
        page(2 * i, f) = static_cast<float>(std::cos(angle));
        page(2 * i + 1, f) = static_cast<float>(std::sin(angle));
      }
    }
    if (by_pairs_) {
      Matrix<float> runs(kPage / kRun, 2 * half() * kRun);
      for (int64_t i = 0; i < 2 * kPage; ++i) {
        float* to = runs.Row(i / 2 / kRun) + (i % 2 * half() * kRun + i / 2 % kRun);
        for (int64_t f = 0; f < half(); ++f) to[f * kRun] = page(i, f);
      }
      runs_.emplace(p, std::move(runs));
    }
    pages_.emplace(p, std::move(page));
  }
}

void PositionTable::Rows(int64_t position, std::span<const float*> rows) const {
  for (const float*& row : rows) row = Cos(position++);
}

void PositionTable::Rotate(int64_t position, MatrixView<float> keys) const {
  for (int64_t t = 0; t < keys.rows; ++t) {
    ApplyRope(keys.Row(t), 1, half(), Cos(position + t), Sin(position + t));
  }
}

int64_t PositionTable::bytes() const {
  return static_cast<int64_t>(pages_.size() + runs_.size()) * 2 * kPage * half() *
         static_cast<int64_t>(sizeof(float));
}

}  // namespace palu
