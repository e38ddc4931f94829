// The end of the graph: logits and mean next-token cross entropy, in slabs of rows.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace palu::grad {

// Mean over positions i < n-1 of -log softmax(x_i head^T)[ids[i+1]], in nats. x: [n, hidden] after
// the final norm, head: [vocab, hidden], ids: [n], n >= 2. When dx has data it receives the
// gradient of x [n, hidden]; its last row is zero.
template <class T>
double NextTokenLoss(ThreadPool& pool, MatrixView<const T> x, MatrixView<const T> head,
                     std::span<const int32_t> ids, MatrixView<T> dx);

}  // namespace palu::grad
