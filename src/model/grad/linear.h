// Products with weights as they are stored, over the whole pool.
#pragma once

#include <span>

#include "base/thread_pool.h"
#include "linalg/gemm.h"
#include "model/grad/rowwise.h"
#include "tensor/tensor.h"

namespace palu::grad {

// Gemm with c split into blocks of rows or columns, whichever there are more of.
template <class T>
void ParallelGemm(ThreadPool& pool, Trans trans_a, Trans trans_b, T alpha, MatrixView<const T> a,
                  MatrixView<const T> b, T beta, MatrixView<T> c);

// Elements [begin, begin + count) of a stored tensor as T, on the calling thread.
template <class T>
void Convert(const TensorView& stored, int64_t begin, int64_t count, T* out);

// y = x W^T + b and its derivatives. A weight that is not stored as T is converted into one scratch
// matrix when it is used, so that only one weight is held converted at any time.
template <class T>
class Linear {
 public:
  explicit Linear(ThreadPool& pool) : pool_(pool) {}

  // y (+)= x W^T + b. x: [n, in], weight: [out, in], bias: [out] or null, y: [n, out].
  void Forward(MatrixView<const T> x, const TensorView& weight, const TensorView& bias, Into into,
               MatrixView<T> y);
  // dx (+)= dy W. dy: [n, out], dx: [n, in].
  void Backward(MatrixView<const T> dy, const TensorView& weight, Into into, MatrixView<T> dx);

  // The weight as T; valid until the next call of any member.
  MatrixView<const T> Matrix(const TensorView& weight);
  // A norm's weight or a bias as T; valid until the next call of Vector or Forward.
  std::span<const T> Vector(const TensorView& weight);

 private:
  ThreadPool& pool_;
  palu::Matrix<T> matrix_;
  palu::Matrix<T> vector_;
};

}  // namespace palu::grad
