#include "model/grad/loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "model/grad/linear.h"
#include "model/grad/parallel.h"
#include "model/grad/row_math.h"

namespace palu::grad {
namespace {

constexpr int64_t kSlabElements = int64_t{1} << 24;  // logits held at a time

// Returns -log softmax(logits)[target] and replaces the logits by its gradient times `weight`.
template <class T>
double CrossEntropyRow(std::span<T> logits, int32_t target, T weight) {
  const auto n = static_cast<int64_t>(logits.size());
  const T max = Max(logits.data(), n);
  const T above = max - logits[target];
  const T sum = ExpShifted(logits.data(), n, max);
  Scale(logits.data(), n, weight / sum);
  logits[target] -= weight;
  return std::log(static_cast<double>(sum)) + static_cast<double>(above);
}

}  // namespace

template <class T>
double NextTokenLoss(ThreadPool& pool, MatrixView<const T> x, MatrixView<const T> head,
                     std::span<const int32_t> ids, MatrixView<T> dx) {
  const int64_t positions = x.rows - 1;
  const T weight = T(1) / static_cast<T>(positions);
  const int64_t slab = std::clamp<int64_t>(kSlabElements / head.rows, 1, positions);
  std::vector<double> losses(static_cast<size_t>(positions));
  Matrix<T> logits(slab, head.rows);
  for (int64_t begin = 0; begin < positions; begin += slab) {
    const int64_t count = std::min(slab, positions - begin);
    const MatrixView<T> rows = logits.View().RowRange(0, count);
    ParallelGemm<T>(pool, Trans::kNo, Trans::kYes, T(1), x.RowRange(begin, count), head, T(0),
                    rows);
    ForRowBlocks(pool, count, [&](int64_t first, int64_t some) {
      for (int64_t r = first; r < first + some; ++r) {
        losses[begin + r] = CrossEntropyRow(rows.RowSpan(r), ids[begin + r + 1], weight);
      }
    });
    if (dx.data == nullptr) continue;
    ParallelGemm<T>(pool, Trans::kNo, Trans::kNo, T(1), rows, head, T(0),
                    dx.RowRange(begin, count));
  }
  if (dx.data != nullptr) std::fill_n(dx.Row(positions), dx.cols, T(0));
  return std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(positions);
}

template double NextTokenLoss(ThreadPool&, MatrixView<const float>, MatrixView<const float>,
                              std::span<const int32_t>, MatrixView<float>);
template double NextTokenLoss(ThreadPool&, MatrixView<const double>, MatrixView<const double>,
                              std::span<const int32_t>, MatrixView<double>);

}  // namespace palu::grad
