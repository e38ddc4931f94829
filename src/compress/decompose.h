// Low-rank factors of one group of KV heads (Palu, ICLR 2025, section 3.1: group-head low-rank
// decomposition; the whitening is that of SVD-LLM, its section 3.2).
//
// A group's rows W: [g*d, hidden] of a key or value projection become U A, U: [g*d, rank] and
// A: [rank, hidden]. The cache then stores A x instead of W x. With the whitening factor L of the
// inputs (C = sum x x^T = L L^T) and W L = P S Q^T, keeping the leading `rank` terms of
//   U = P S^(1/2),  A = S^(1/2) Q^T L^-1
// minimises sum |W x - U A x|^2 over the calibration inputs; the minimum is the sum of the squares
// of the discarded singular values. The factorisation is computed once and truncated per rank, so
// that trying another ratio costs next to nothing.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace palu {

struct GroupFactors {
  Matrix<double> up;             // U [g*d, rank]
  Matrix<double> down;           // A [rank, hidden]
  std::vector<double> singular;  // the kept ones, descending, [rank]
};

struct GroupSvd {
  Matrix<double> left;           // P [g*d, k], k = min(g*d, hidden)
  std::vector<double> singular;  // S, descending, [k]
  Matrix<double> right;          // Q^T L^-1 [k, hidden]

  // The best factors of the given rank, 1 <= rank <= g*d; directions beyond k are zero.
  GroupFactors Truncate(int64_t rank) const;
  // sum |W x - U A x|^2 over the calibration inputs, at that rank (for L = I: |W - U A|_F^2).
  double DiscardedEnergy(int64_t rank) const;
};

// weight: W [g*d, hidden]. whitening: L [hidden, hidden], lower triangular; an empty view means the
// identity (plain SVD). Throws Error when the shapes disagree or a value is not finite.
GroupSvd DecomposeGroup(MatrixView<const double> weight, MatrixView<const double> whitening = {});

}  // namespace palu
