#include "base/cancel.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"

namespace palu {
namespace {

std::atomic<bool> cancel_requested{false};

struct Unfinished {
  std::mutex mutex;
  std::multiset<std::filesystem::path> paths;
};

Unfinished& TheUnfinished() {
  static auto* const unfinished = new Unfinished;  // outlives every thread
  return *unfinished;
}

int pipe_ends[2] = {-1, -1};  // from the handler to the thread

// Only what a signal handler may do. Libraries start threads before main(), any of which may get
// the signal, so that blocking it everywhere and waiting for it is not possible. Those threads are
// idle; threads that compute must not get it: oneDNN's generated code does not bear that the kernel
// saves a thread's state below its stack pointer, which then destroys the heap.
void OnSignal(int signal) {
  if (!cancel_requested.exchange(true)) return;
  const auto byte = static_cast<unsigned char>(signal);
  if (::write(pipe_ends[1], &byte, 1) != 1) _exit(128 + signal);
}

void WaitForSecondSignal() {
  unsigned char signal = 0;
  while (::read(pipe_ends[0], &signal, 1) != 1) {
  }
  RemoveUnfinishedPaths();
  _exit(128 + signal);
}

}  // namespace

void InstallCancelHandlers() {
  static_assert(std::atomic<bool>::is_always_lock_free);  // safe inside a signal handler
  Require(::pipe2(pipe_ends, O_CLOEXEC) == 0, "cannot make a pipe: {}", std::strerror(errno));
  std::thread(WaitForSecondSignal).detach();  // takes signals; the others do not, see above
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);  // and in threads that start from here on
}

void RequestCancel() noexcept { cancel_requested = true; }
void ClearCancel() noexcept { cancel_requested = false; }
bool CancelRequested() noexcept { return cancel_requested; }

void ThrowIfCancelled() {
  if (cancel_requested) throw Cancelled();
}

UnfinishedPath::UnfinishedPath(std::filesystem::path path) : path_(std::move(path)) {
  const std::lock_guard lock(TheUnfinished().mutex);
  TheUnfinished().paths.insert(path_);
}

UnfinishedPath::~UnfinishedPath() {
  const std::lock_guard lock(TheUnfinished().mutex);
  const auto entry = TheUnfinished().paths.find(path_);
  if (entry != TheUnfinished().paths.end()) TheUnfinished().paths.erase(entry);
}

void RemoveUnfinishedPaths() noexcept {
  const std::lock_guard lock(TheUnfinished().mutex);
  for (const std::filesystem::path& path : TheUnfinished().paths) {
    // Another thread may be writing into the directory: what it adds goes in a later round.
    for (int round = 0; round < 10; ++round) {
      std::error_code error;
      std::filesystem::remove_all(path, error);
      if (!error) break;
    }
  }
}

}  // namespace palu
