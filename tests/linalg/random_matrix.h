// Reproducible random matrices and plain-loop helpers for the tests of numerical code.
#pragma once

#include <cmath>
#include <random>

#include "tensor/tensor.h"

namespace palu::testing {

template <class T>
Matrix<T> RandomMatrix(int64_t rows, int64_t cols, uint32_t seed, double scale = 1.0) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0.0, scale);
  Matrix<T> out(rows, cols);
  for (int64_t i = 0; i < out.size(); ++i) out.data()[i] = static_cast<T>(normal(engine));
  return out;
}

inline Matrix<double> Product(MatrixView<const double> a, MatrixView<const double> b) {
  Matrix<double> c(a.rows, b.cols);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.cols; ++j) {
      double sum = 0.0;
      for (int64_t p = 0; p < a.cols; ++p) sum += a(i, p) * b(p, j);
      c(i, j) = sum;
    }
  }
  return c;
}

inline Matrix<double> Transposed(MatrixView<const double> a) {
  Matrix<double> out(a.cols, a.rows);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) out(j, i) = a(i, j);
  }
  return out;
}

inline double FrobeniusNorm(MatrixView<const double> a) {
  double sum = 0.0;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (double v : a.RowSpan(i)) sum += v * v;
  }
  return std::sqrt(sum);
}

inline double Distance(MatrixView<const double> a, MatrixView<const double> b) {
  double sum = 0.0;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) sum += (a(i, j) - b(i, j)) * (a(i, j) - b(i, j));
  }
  return std::sqrt(sum);
}

}  // namespace palu::testing
