// Splitting row-wise work over a pool.
#pragma once

#include <algorithm>

#include "base/thread_pool.h"

namespace palu::grad {

// Calls body(begin, count) on blocks that cover [0, rows). A few blocks per thread let the fast
// ones take more.
template <class Body>
void ForRowBlocks(ThreadPool& pool, int64_t rows, const Body& body) {
  const int64_t wanted = pool.size() == 1 ? 1 : 4 * pool.size();
  const int64_t block = std::max<int64_t>(1, (rows + wanted - 1) / wanted);
  pool.ParallelFor((rows + block - 1) / block, [&](int64_t index, int) {
    const int64_t begin = index * block;
    body(begin, std::min(block, rows - begin));
  });
}

}  // namespace palu::grad
