#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>

namespace palu {
namespace {

int UsableCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  const int total = threads > 0 ? threads : UsableCpus();
  for (int worker = 1; worker < total; ++worker) {
    workers_.emplace_back([this, worker] { WorkerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  std::unique_lock lock(mutex_);
  body_ = &body;
  count_ = count;
  next_ = 0;
  active_ = size();
  error_ = nullptr;
  ++generation_;
  lock.unlock();
  work_ready_.notify_all();
  RunShare(0);
  lock.lock();
  work_done_.wait(lock, [this] { return active_ == 0; });
  if (error_) std::rethrow_exception(error_);
}

void ThreadPool::WorkerLoop(int worker) {
  uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      work_ready_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
    }
    RunShare(worker);
  }
}

void ThreadPool::RunShare(int worker) {
  std::unique_lock lock(mutex_);
  while (next_ < count_) {
    const int64_t index = next_++;
    const auto* body = body_;
    lock.unlock();
    std::exception_ptr error;
    try {
      (*body)(index, worker);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error) {
      if (!error_) error_ = error;
      next_ = count_;  // hand out no more
    }
  }
  if (--active_ == 0) work_done_.notify_all();
}

}  // namespace palu
