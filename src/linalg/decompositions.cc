#include "linalg/decompositions.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "linalg/library_threads.h"

namespace palu {
namespace {

// Row-major [m, n] memory is column-major [n, m] memory of the transpose. Every call below is
// phrased for the transpose, so LAPACKE never has to copy: our lower triangle is LAPACK's upper.
constexpr int kOrder = LAPACK_COL_MAJOR;
constexpr char kOurLowerTriangle = 'U';

lapack_int ToInt(int64_t n) {
  Require(n >= 0 && n <= std::numeric_limits<lapack_int>::max(),
          "matrix extent {} is beyond what this LAPACK can index", n);
  return static_cast<lapack_int>(n);
}

// A stride that LAPACK accepts even for matrices without columns.
template <class T>
lapack_int Stride(MatrixView<T> a) {
  return std::max<lapack_int>(1, ToInt(a.stride));
}

void RequireSquare(const char* what, int64_t rows, int64_t cols) {
  Require(rows == cols, "{}: expected a square matrix, found [{}, {}]", what, rows, cols);
}

void RequireFinite(const char* what, MatrixView<const double> a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.cols; ++c) {
      Require(std::isfinite(a(r, c)), "{}: element ({}, {}) of a [{}, {}] matrix is {}", what, r, c,
              a.rows, a.cols, a(r, c));
    }
  }
}

Matrix<double> Copy(MatrixView<const double> a) {
  Matrix<double> out(a.rows, a.cols);
  for (int64_t r = 0; r < a.rows; ++r) std::copy_n(a.Row(r), a.cols, out.Row(r));
  return out;
}

}  // namespace

void SyrkAccumulate(ThreadPool& pool, MatrixView<const float> x, MatrixView<double> c) {
  Require(c.rows == x.cols && c.cols == x.cols,
          "Gram matrix: expected [{}, {}] for inputs of width {}, found [{}, {}]", x.cols, x.cols,
          x.cols, c.rows, c.cols);
  if (x.cols == 0) return;
  constexpr int64_t kPanel = 256;  // rows held in float64 at a time
  constexpr int64_t kBand = 256;   // rows of c that one task adds to
  Matrix<double> panel(std::min(kPanel, x.rows), x.cols);
  for (int64_t begin = 0; begin < x.rows; begin += kPanel) {
    const int64_t count = std::min(kPanel, x.rows - begin);
    for (int64_t r = 0; r < count; ++r) {
      std::copy_n(x.Row(begin + r), x.cols, panel.Row(r));
    }
    const int64_t bands = (x.cols + kBand - 1) / kBand;
    pool.ParallelFor(bands, [&](int64_t task, int) {
      UseOneLibraryThread();
      const int64_t first = (bands - 1 - task) * kBand;  // the longest band first
      const int64_t rows = std::min(kBand, x.cols - first);
      const double* band = panel.data() + first;  // columns [first, first + rows) of the panel
      cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, ToInt(rows), ToInt(first), ToInt(count),
                  1.0, band, ToInt(x.cols), panel.data(), ToInt(x.cols), 1.0, c.Row(first),
                  Stride(c));
      cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, ToInt(rows), ToInt(count), 1.0, band,
                  ToInt(x.cols), 1.0, c.Row(first) + first, Stride(c));
    });
  }
}

bool CholeskyLower(MatrixView<double> a) {
  RequireSquare("Cholesky", a.rows, a.cols);
  if (a.rows == 0) return true;
  UseOneLibraryThread();
  for (int64_t r = 0; r < a.rows; ++r) std::fill_n(a.Row(r) + r + 1, a.cols - r - 1, 0.0);
  const lapack_int info =
      LAPACKE_dpotrf(kOrder, kOurLowerTriangle, ToInt(a.rows), a.data, Stride(a));
  return info == 0;  // > 0: a leading minor is not positive; < 0: LAPACKE found a NaN
}

std::vector<double> SymmetricEigenvalues(MatrixView<double> a) {
  RequireSquare("eigenvalues", a.rows, a.cols);
  std::vector<double> values(static_cast<size_t>(a.rows));
  if (a.rows == 0) return values;
  UseOneLibraryThread();
  const lapack_int info = LAPACKE_dsyevd(kOrder, 'N', kOurLowerTriangle, ToInt(a.rows), a.data,
                                         Stride(a), values.data());
  Require(info == 0, "eigenvalues of a [{}, {}] matrix: LAPACK dsyevd returned {}", a.rows, a.cols,
          info);
  return values;
}

Svd ThinSvd(MatrixView<double> a) {
  RequireFinite("SVD", a);
  const int64_t k = std::min(a.rows, a.cols);
  Svd svd{Matrix<double>(a.rows, k), std::vector<double>(static_cast<size_t>(k)),
          Matrix<double>(k, a.cols)};
  if (k == 0) return svd;
  UseOneLibraryThread();
  const lapack_int m = ToInt(a.rows), n = ToInt(a.cols), rank = ToInt(k);
  // a^T = V S U^T: LAPACK's left factor is our vt read by rows, its right factor our u.
  const Matrix<double> backup = Copy(a);
  lapack_int info = LAPACKE_dgesdd(kOrder, 'S', n, m, a.data, Stride(a), svd.singular.data(),
                                   svd.vt.data(), n, svd.u.data(), rank);
  if (info > 0) {  // divide and conquer failed; plain QR iteration is slower and sturdier
    for (int64_t r = 0; r < a.rows; ++r) std::copy_n(backup.Row(r), a.cols, a.Row(r));
    std::vector<double> superdiagonal(static_cast<size_t>(k));
    info = LAPACKE_dgesvd(kOrder, 'S', 'S', n, m, a.data, Stride(a), svd.singular.data(),
                          svd.vt.data(), n, svd.u.data(), rank, superdiagonal.data());
  }
  Require(info == 0, "SVD of a [{}, {}] matrix: LAPACK returned {}", a.rows, a.cols, info);
  return svd;
}

Matrix<double> LowerBasis(MatrixView<const double> rows) {
  RequireFinite("orthogonal basis", rows);
  UseOneLibraryThread();
  const lapack_int m = ToInt(rows.rows), n = ToInt(rows.cols), reflectors = std::min(m, n);
  // LAPACK sees rows^T [n, m] = Q R.
  Matrix<double> work = Copy(rows);
  std::vector<double> tau(static_cast<size_t>(reflectors));
  lapack_int info = 0;
  if (reflectors > 0) info = LAPACKE_dgeqrf(kOrder, n, m, work.data(), n, tau.data());
  Require(info == 0, "QR of a [{}, {}] matrix: LAPACK returned {}", m, n, info);
  Matrix<double> transposed(n, n);  // column i of Q is its row i
  for (int64_t i = 0; i < reflectors; ++i) std::copy_n(work.Row(i), n, transposed.Row(i));
  if (n > 0) info = LAPACKE_dorgqr(kOrder, n, n, reflectors, transposed.data(), n, tau.data());
  Require(info == 0, "basis of a [{}, {}] matrix: LAPACK returned {}", m, n, info);
  Matrix<double> q(n, n);
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < n; ++c) q(r, c) = transposed(c, r);
  }
  return q;
}

void SolveRightLower(MatrixView<const double> lower, MatrixView<double> x) {
  RequireSquare("triangular solve", lower.rows, lower.cols);
  Require(x.cols == lower.rows, "triangular solve: expected {} columns, found {}", lower.rows,
          x.cols);
  if (x.rows == 0 || x.cols == 0) return;
  UseOneLibraryThread();
  cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, ToInt(x.rows),
              ToInt(x.cols), 1.0, lower.data, Stride(lower), x.data, Stride(x));
}

}  // namespace palu
