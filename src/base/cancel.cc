#include "base/cancel.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

namespace palu {
namespace {

std::atomic<bool> cancel_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // safe inside a signal handler

void OnSignal(int signal) {
  if (cancel_requested.exchange(true)) _exit(128 + signal);
}

}  // namespace

void InstallCancelHandlers() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void RequestCancel() noexcept { cancel_requested = true; }
void ClearCancel() noexcept { cancel_requested = false; }
bool CancelRequested() noexcept { return cancel_requested; }

void ThrowIfCancelled() {
  if (cancel_requested) throw Cancelled();
}

}  // namespace palu
