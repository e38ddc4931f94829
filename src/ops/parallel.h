// How an op shares its rows among threads: contiguous ranges, or none when the work is too small
// to wake anybody.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/exec.h"

namespace palu {

// Multiply-adds (or as many simple element operations) worth a task of its own: some 5 to 10 us,
// what waking a thread costs.
inline constexpr int64_t kMinTaskWork = int64_t{1} << 17;

// Calls body(begin, end, worker) on ranges that cover [0, count); `work` is the cost of one item.
// A few ranges per thread even out a thread that the system delays.
template <class Body>
void ForWorkerRanges(const Exec& exec, int64_t count, int64_t work, const Body& body) {
  const int64_t by_work = count * std::max<int64_t>(work, 1) / kMinTaskWork;
  const int64_t tasks = std::min({count, by_work, int64_t{exec.pool.size()} * 4});
  if (tasks <= 1 || exec.pool.size() == 1) {
    if (count > 0) body(int64_t{0}, count, 0);
    return;
  }
  exec.pool.ParallelFor(tasks, [&](int64_t task, int worker) {
    body(count * task / tasks, count * (task + 1) / tasks, worker);
  });
}

// The same for bodies that need no scratch of their worker: body(begin, end).
template <class Body>
void ForRanges(const Exec& exec, int64_t count, int64_t work, const Body& body) {
  ForWorkerRanges(exec, count, work, [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

}  // namespace palu
