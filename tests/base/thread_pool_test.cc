#include "base/thread_pool.h"

#include <atomic>
#include <stdexcept>

#include "testing.h"

namespace palu {
namespace {

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
      pool.ParallelFor(count, [&](int64_t i, int worker) {
        ASSERT_GE(worker, 0);
        ASSERT_LT(worker, threads);
        ++seen[static_cast<size_t>(i)];
      });
      for (auto& n : seen) EXPECT_EQ(n, 1);
    }
  }
}

TEST(ThreadPool, PassesOnTheFirstExceptionAndStaysUsable) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.ParallelFor(100,
                                [](int64_t i, int) {
                                  if (i == 5) throw std::runtime_error("five");
                                }),
               std::runtime_error);
  std::atomic<int> sum = 0;
  pool.ParallelFor(10, [&](int64_t i, int) { sum += static_cast<int>(i); });
  EXPECT_EQ(sum, 45);
}

}  // namespace
}  // namespace palu
