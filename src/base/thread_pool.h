// A fixed set of worker threads that run index ranges. The caller takes part, so a pool of one
// thread runs everything inline. Exceptions thrown by the body reach the caller (the first one).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace palu {

class ThreadPool {
 public:
  // threads <= 0 means one per CPU this process may run on.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index, worker) once for every index in [0, count); worker in [0, size()) names the
  // thread and indexes per-thread scratch. Indices are handed out in increasing order. Not
  // reentrant: a body must not call ParallelFor on the same pool.
  void ParallelFor(int64_t count, const std::function<void(int64_t index, int worker)>& body);

 private:
  void WorkerLoop(int worker);
  void RunShare(int worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable work_ready_, work_done_;
  const std::function<void(int64_t, int)>* body_ = nullptr;  // guarded by mutex_, like the rest
  int64_t count_ = 0;
  int64_t next_ = 0;
  int active_ = 0;
  uint64_t generation_ = 0;
  bool stopping_ = false;
  std::exception_ptr error_;
};

}  // namespace palu
