#include "format/rounding.h"

#include <bit>
#include <cmath>
#include <cstdint>

namespace palu {
namespace {

template <class T>
double Load(T x) {
  return ToFloat(x);
}
template <>
double Load(double x) {
  return x;
}

// To float by rounding to odd: a second rounding, to fewer bits, then equals a single one.
float ToOddFloat(double x) {
  const auto nearest = static_cast<float>(x);
  if (nearest == x || std::isnan(x) || (std::bit_cast<uint32_t>(nearest) & 1u)) return nearest;
  const bool too_large = std::abs(static_cast<double>(nearest)) > std::abs(x);
  return std::nextafter(nearest, too_large ? 0.0f : std::copysign(INFINITY, nearest));
}

template <class T>
T Store(double x) {
  return static_cast<T>(x);
}
template <>
Half Store(double x) {
  return ToHalf(ToOddFloat(x));
}
template <>
BFloat16 Store(double x) {
  return ToBFloat16(ToOddFloat(x));
}

template <class Action>
void ForType(DType dtype, Action&& action) {
  switch (dtype) {
    case DType::kF64:
      return action(double{});
    case DType::kF32:
      return action(float{});
    case DType::kF16:
      return action(Half{});
    case DType::kBF16:
      return action(BFloat16{});
  }
}

}  // namespace

Matrix<double> ToDouble(const TensorView& tensor) {
  const int64_t size = tensor.size();
  Matrix<double> result(tensor.rows(), tensor.rows() == 0 ? 0 : size / tensor.rows());
  ForType(tensor.dtype, [&](auto type) {
    const auto* from = tensor.As<decltype(type)>();
    for (int64_t i = 0; i < size; ++i) result.data()[i] = Load(from[i]);
  });
  return result;
}

OwnedTensor Rounded(MatrixView<const double> values, DType dtype, Shape shape) {
  OwnedTensor result(dtype, std::move(shape));
  ForType(dtype, [&](auto type) {
    using T = decltype(type);
    T* to = reinterpret_cast<T*>(result.data());
    for (int64_t r = 0; r < values.rows; ++r) {
      for (int64_t c = 0; c < values.cols; ++c) *to++ = Store<T>(values(r, c));
    }
  });
  return result;
}

OwnedTensor Converted(const TensorView& tensor, DType dtype) {
  return Rounded(ToDouble(tensor), dtype, tensor.shape);
}

}  // namespace palu
