#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>

namespace palu {
namespace {

std::atomic<bool> g_quiet{false};

class Console {
 public:
  static Console& Get() {
    static Console console;
    return console;
  }

  void Log(spdlog::level::level_enum level, std::string_view text) {
    const std::lock_guard lock(mutex_);
    if (!status_.empty()) std::fputs(kErase, stderr);
    logger_.log(level, spdlog::string_view_t(text.data(), text.size()));
    if (!status_.empty()) std::fputs(status_.c_str(), stderr);
  }

  void SetStatus(std::string_view text) {
    const std::lock_guard lock(mutex_);
    if (status_.empty() && text.empty()) return;
    status_ = text;
    std::fputs((kErase + status_).c_str(), stderr);
    std::fflush(stderr);
  }

 private:
  static constexpr const char* kErase = "\r\x1b[K";

  Console() : logger_("palu", std::make_shared<spdlog::sinks::stderr_color_sink_st>()) {
    logger_.set_pattern("[%H:%M:%S] %^%l%$: %v");
  }

  std::mutex mutex_;
  spdlog::logger logger_;
  std::string status_;
};

}  // namespace

void SetQuiet(bool quiet) noexcept { g_quiet.store(quiet, std::memory_order_relaxed); }

bool Quiet() noexcept { return g_quiet.load(std::memory_order_relaxed); }

void LogLine(LogLevel level, std::string_view text) {
  if (level == LogLevel::kInfo && Quiet()) return;
  Console::Get().Log(level == LogLevel::kInfo ? spdlog::level::info : spdlog::level::warn, text);
}

void SetStatusLine(std::string_view text) { Console::Get().SetStatus(text); }

}  // namespace palu
