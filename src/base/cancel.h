// Cooperative cancellation. Ctrl-C sets a flag; long loops call ThrowIfCancelled() between units of
// work, so that destructors run and temporary files go away.
#pragma once

#include <exception>

namespace palu {

class Cancelled : public std::exception {
 public:
  const char* what() const noexcept override { return "cancelled"; }
};

// Routes SIGINT and SIGTERM to the flag; a second signal ends the process at once.
void InstallCancelHandlers();

// Sets the flag as a signal would (used by tests and embedders); ClearCancel resets it.
void RequestCancel() noexcept;
void ClearCancel() noexcept;
bool CancelRequested() noexcept;

// Throws Cancelled when the flag is set.
void ThrowIfCancelled();

}  // namespace palu
