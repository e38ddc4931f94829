#include "compress/rotary_basis.h"

#include <algorithm>

#include "base/error.h"
#include "linalg/decompositions.h"
#include "linalg/gemm.h"
#include "linalg/hadamard.h"

namespace palu {
namespace {

// Calls f(head, row of U) for all fast rows, those of a head one after the other.
template <class F>
void ForFastRows(const RotaryRows& rows, int64_t heads, const F& f) {
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < rows.count(); ++i) f(h, rows.Row(h, i));
  }
}

// The columns [first, last) of a matrix times q on the right.
void TurnColumns(Matrix<double>& a, int64_t first, const Matrix<double>& q) {
  Matrix<double> turned(a.rows(), q.cols());
  Matrix<double> block(a.rows(), q.rows());
  for (int64_t r = 0; r < a.rows(); ++r) std::copy_n(a.Row(r) + first, q.rows(), block.Row(r));
  Gemm(Trans::kNo, Trans::kNo, 1.0, block, q, 0.0, turned);
  for (int64_t r = 0; r < a.rows(); ++r) std::copy_n(turned.Row(r), q.cols(), a.Row(r) + first);
}

// The rows from `first` on, q^T on the left.
void TurnRows(Matrix<double>& a, int64_t first, const Matrix<double>& q) {
  Matrix<double> turned(q.cols(), a.cols());
  Gemm(Trans::kYes, Trans::kNo, 1.0, q, a.View().RowRange(first, q.rows()), 0.0, turned);
  std::copy_n(turned.data(), turned.size(), a.Row(first));
}

void Turn(GroupFactors& factors, int64_t first, const Matrix<double>& q) {
  TurnColumns(factors.up, first, q);
  TurnRows(factors.down, first, q);
}

}  // namespace

void TurnToRotaryBasis(const RotaryRows& rows, bool flat, GroupFactors& factors) {
  Require(rows.pairs >= 1 && rows.count() <= rows.head_dim,
          "rotary basis: expected 1 to {} fast pairs, found {}", rows.head_dim / 2, rows.pairs);
  Require(factors.up.rows() % rows.head_dim == 0,
          "rotary basis: expected rows of whole heads of {}, found {}", rows.head_dim,
          factors.up.rows());
  const int64_t heads = factors.up.rows() / rows.head_dim, rank = factors.up.cols();
  Matrix<double> fast(heads * rows.count(), rank);
  int64_t next = 0;
  ForFastRows(rows, heads, [&](int64_t, int64_t row) {
    std::copy_n(factors.up.Row(row), rank, fast.Row(next++));
  });
  Turn(factors, 0, LowerBasis(fast));
  const std::vector<int64_t> bounds = RotaryBounds(rows, heads, rank);
  if (flat) {
    int64_t begin = 0;
    for (size_t i = 0; i <= bounds.size(); ++i) {
      const int64_t end = i < bounds.size() ? bounds[i] : rank;
      if (end > begin) Turn(factors, begin, FlatOrthogonal(end - begin));
      begin = end;
    }
  }
  ForFastRows(rows, heads, [&](int64_t h, int64_t row) {
    std::fill(factors.up.Row(row) + bounds[static_cast<size_t>(h)], factors.up.Row(row) + rank,
              0.0);
  });
  const std::vector<int64_t> order = SlotOrder(rows.bits, rank);
  Matrix<double> up(factors.up.rows(), rank), down(rank, factors.down.cols());
  for (int64_t i = 0; i < rank; ++i) {
    const int64_t at = order[static_cast<size_t>(i)];
    std::copy_n(factors.down.Row(i), factors.down.cols(), down.Row(at));
    for (int64_t r = 0; r < up.rows(); ++r) up(r, at) = factors.up(r, i);
  }
  factors.up = std::move(up);
  factors.down = std::move(down);
}

}  // namespace palu
