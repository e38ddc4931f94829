// The specification of the ops: plain loops in double precision, over the same views. Slow, and
// meant to be read; tests compare every kernel with these.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "tensor/tensor.h"

namespace palu::reference {

// Element i of an array of any stored type.
inline double At(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF64:
      return static_cast<const double*>(data)[i];
    case DType::kF32:
      return static_cast<const float*>(data)[i];
    case DType::kF16:
      return ToFloat(static_cast<const Half*>(data)[i]);
    case DType::kBF16:
      return ToFloat(static_cast<const BFloat16*>(data)[i]);
  }
  return 0;
}

// y = [y +] x Wᵀ [+ bias]: x [m, k], w [n, k], y [m, n].
inline void Linear(MatrixView<const float> x, const TensorView& w, const TensorView* bias,
                   bool accumulate, MatrixView<double> y) {
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t j = 0; j < y.cols; ++j) {
      double sum = accumulate ? y(i, j) : 0.0;
      for (int64_t c = 0; c < x.cols; ++c) sum += x(i, c) * At(w.data, w.dtype, j * x.cols + c);
      y(i, j) = sum + (bias ? At(bias->data, bias->dtype, j) : 0.0);
    }
  }
}

inline void RmsNorm(std::span<const float> x, const TensorView& weight, double eps,
                    std::span<double> y) {
  double squares = 0;
  for (float v : x) squares += static_cast<double>(v) * v;
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = x[i] * scale * At(weight.data, weight.dtype, static_cast<int64_t>(i));
  }
}

// One head [d] at one position, rotate-half pairs.
inline void Rope(std::span<const float> x, double position, std::span<const double> frequencies,
                 std::span<double> y) {
  const size_t half = x.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const double c = std::cos(position * frequencies[i]);
    const double s = std::sin(position * frequencies[i]);
    y[i] = x[i] * c - x[i + half] * s;
    y[i + half] = x[i + half] * c + x[i] * s;
  }
}

inline double SwiGlu(double gate, double up) { return gate / (1.0 + std::exp(-gate)) * up; }

// out[c] = sum_t softmax(scores)_t values[t][c].
inline void SoftmaxAverage(std::span<const float> scores, MatrixView<const float> values,
                           std::span<double> out) {
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  std::fill(out.begin(), out.end(), 0.0);
  for (size_t t = 0; t < scores.size(); ++t) {
    const double p = std::exp(scores[t] - max);
    sum += p;
    for (size_t c = 0; c < out.size(); ++c) {
      out[c] += p * values(static_cast<int64_t>(t), static_cast<int64_t>(c));
    }
  }
  for (double& v : out) v /= sum;
}

inline double LogSumExp(std::span<const float> logits) {
  double max = -std::numeric_limits<double>::infinity();
  for (float v : logits) max = std::max<double>(max, v);
  double sum = 0;
  for (float v : logits) sum += std::exp(v - max);
  return max + std::log(sum);
}

}  // namespace palu::reference
