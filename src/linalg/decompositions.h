// Factorisations in float64 through LAPACK, each on the calling thread.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace palu {

// c += x^T x, lower triangle only. x: [n, dim] (converted to float64), c: [dim, dim]. Split over
// the pool; the sums do not depend on its size.
void SyrkAccumulate(ThreadPool& pool, MatrixView<const float> x, MatrixView<double> c);

// In place: the lower triangle of `a` [n, n] becomes L with a = L L^T, the strict upper triangle is
// zeroed. Returns false (contents undefined) when `a` is not positive definite.
bool CholeskyLower(MatrixView<double> a);

// Eigenvalues of the symmetric matrix held in the lower triangle, ascending. `a` is destroyed.
std::vector<double> SymmetricEigenvalues(MatrixView<double> a);

struct Svd {
  Matrix<double> u;              // [m, min(m, n)]
  std::vector<double> singular;  // descending
  Matrix<double> vt;             // [min(m, n), n]
};

// Thin singular value decomposition of a [m, n]; `a` is destroyed. Throws Error on non-finite input
// or when LAPACK does not converge.
Svd ThinSvd(MatrixView<double> a);

// An orthogonal matrix Q [n, n] with rows Q = [L 0], L lower trapezoidal, for rows [m, n]: row i of
// the product is zero beyond its first i + 1 columns. Throws Error on non-finite input.
Matrix<double> LowerBasis(MatrixView<const double> rows);

// x <- x L^-1 for a lower-triangular L [n, n] and x [m, n].
void SolveRightLower(MatrixView<const double> lower, MatrixView<double> x);

}  // namespace palu
