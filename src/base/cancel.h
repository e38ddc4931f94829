// Cooperative cancellation. Ctrl-C sets a flag; long loops call ThrowIfCancelled() between units of
// work, so that destructors run and temporary files go away. A second Ctrl-C does not wait for
// them: the unfinished files are removed and the process ends.
#pragma once

#include <exception>
#include <filesystem>

namespace palu {

class Cancelled : public std::exception {
 public:
  const char* what() const noexcept override { return "cancelled"; }
};

// Routes SIGINT and SIGTERM to the flag; a second one removes unfinished files and ends the
// process. Called before other threads are started: this one and they leave signals alone.
void InstallCancelHandlers();

// Sets the flag as a signal would (used by tests and embedders); ClearCancel resets it.
void RequestCancel() noexcept;
void ClearCancel() noexcept;
bool CancelRequested() noexcept;

// Throws Cancelled when the flag is set.
void ThrowIfCancelled();

// A file or directory, with all that is in it, that must not stay when the process is ended by a
// second signal while this object lives.
class UnfinishedPath {
 public:
  explicit UnfinishedPath(std::filesystem::path path);
  ~UnfinishedPath();
  UnfinishedPath(const UnfinishedPath&) = delete;
  UnfinishedPath& operator=(const UnfinishedPath&) = delete;

 private:
  std::filesystem::path path_;
};

// Removes what UnfinishedPath objects stand for, as a second signal does.
void RemoveUnfinishedPaths() noexcept;

}  // namespace palu
