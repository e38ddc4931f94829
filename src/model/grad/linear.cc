#include "model/grad/linear.h"

#include <algorithm>
#include <type_traits>

#include "base/half.h"
#include "model/grad/parallel.h"

namespace palu::grad {
namespace {

template <class T>
MatrixView<T> Rows(Trans trans, MatrixView<T> a, int64_t begin, int64_t count) {
  return trans == Trans::kNo ? a.RowRange(begin, count) : a.ColRange(begin, count);
}

template <class T, class Stored>
void ConvertRange(const TensorView& stored, int64_t begin, int64_t count, T* out) {
  const Stored* in = stored.As<Stored>() + begin;
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_floating_point_v<Stored>) {
      out[i] = static_cast<T>(in[i]);
    } else {
      out[i] = static_cast<T>(ToFloat(in[i]));
    }
  }
}

}  // namespace

template <class T>
void ParallelGemm(ThreadPool& pool, Trans trans_a, Trans trans_b, T alpha, MatrixView<const T> a,
                  MatrixView<const T> b, T beta, MatrixView<T> c) {
  const bool by_rows = c.rows >= c.cols;
  const int64_t extent = by_rows ? c.rows : c.cols;
  constexpr int64_t kGrain = 16;  // a register tile; thinner blocks waste the kernel
  const int64_t wanted = pool.size() == 1 ? 1 : 2 * pool.size();
  const int64_t block =
      std::max<int64_t>(kGrain, ((extent + wanted - 1) / wanted + kGrain - 1) / kGrain * kGrain);
  pool.ParallelFor((extent + block - 1) / block, [&](int64_t index, int) {
    const int64_t begin = index * block;
    const int64_t count = std::min(block, extent - begin);
    if (by_rows) {
      Gemm(trans_a, trans_b, alpha, Rows(trans_a, a, begin, count), b, beta,
           c.RowRange(begin, count));
    } else {
      const Trans flipped = trans_b == Trans::kNo ? Trans::kYes : Trans::kNo;
      Gemm(trans_a, trans_b, alpha, a, Rows(flipped, b, begin, count), beta,
           c.ColRange(begin, count));
    }
  });
}

template <class T>
void Convert(const TensorView& stored, int64_t begin, int64_t count, T* out) {
  switch (stored.dtype) {
    case DType::kF64:
      return ConvertRange<T, double>(stored, begin, count, out);
    case DType::kF32:
      return ConvertRange<T, float>(stored, begin, count, out);
    case DType::kF16:
      return ConvertRange<T, Half>(stored, begin, count, out);
    case DType::kBF16:
      return ConvertRange<T, BFloat16>(stored, begin, count, out);
  }
}

template <class T>
MatrixView<const T> Linear<T>::Matrix(const TensorView& weight) {
  if (weight.dtype == DTypeOf<T>()) return {weight.As<T>(), weight.rows(), weight.cols()};
  matrix_.Resize(weight.rows(), weight.cols());
  ForRowBlocks(pool_, weight.size(), [&](int64_t begin, int64_t count) {
    Convert(weight, begin, count, matrix_.data() + begin);
  });
  return matrix_;
}

template <class T>
std::span<const T> Linear<T>::Vector(const TensorView& weight) {
  const auto size = static_cast<size_t>(weight.size());
  if (weight.dtype == DTypeOf<T>()) return {weight.As<T>(), size};
  vector_.Resize(1, weight.size());
  Convert(weight, 0, weight.size(), vector_.data());
  return {vector_.data(), size};
}

template <class T>
void Linear<T>::Forward(MatrixView<const T> x, const TensorView& weight, const TensorView& bias,
                        Into into, MatrixView<T> y) {
  ParallelGemm<T>(pool_, Trans::kNo, Trans::kYes, T(1), x, Matrix(weight),
                  into == Into::kAdd ? T(1) : T(0), y);
  if (!bias) return;
  const auto b = Vector(bias);
  ForRowBlocks(pool_, y.rows, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      T* row = y.Row(r);
      for (int64_t i = 0; i < y.cols; ++i) row[i] += b[i];
    }
  });
}

template <class T>
void Linear<T>::Backward(MatrixView<const T> dy, const TensorView& weight, Into into,
                         MatrixView<T> dx) {
  ParallelGemm<T>(pool_, Trans::kNo, Trans::kNo, T(1), dy, Matrix(weight),
                  into == Into::kAdd ? T(1) : T(0), dx);
}

#define PALU_GRAD_INSTANTIATE(T)                                                \
  template void ParallelGemm(ThreadPool&, Trans, Trans, T, MatrixView<const T>, \
                             MatrixView<const T>, T, MatrixView<T>);            \
  template void Convert(const TensorView&, int64_t, int64_t, T*);               \
  template class Linear<T>;
PALU_GRAD_INSTANTIATE(float)
PALU_GRAD_INSTANTIATE(double)

}  // namespace palu::grad
