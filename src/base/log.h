// Lines for the person at the terminal, all to stderr: log messages and one status line (a progress
// bar) that messages never run into. Thread safe.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace palu {

enum class LogLevel { kInfo, kWarn };

// Process-wide (--quiet): drops progress and Info lines; warnings stay.
void SetQuiet(bool quiet) noexcept;
bool Quiet() noexcept;

void LogLine(LogLevel level, std::string_view text);

template <class... Args>
void Info(fmt::format_string<Args...> format, Args&&... args) {
  if (!Quiet()) LogLine(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void Warn(fmt::format_string<Args...> format, Args&&... args) {
  LogLine(LogLevel::kWarn, fmt::format(format, std::forward<Args>(args)...));
}

// Shows `text` as the terminal's last line, in place of the one before; empty erases it. Log lines
// are written above it. For terminals only: it uses control codes.
void SetStatusLine(std::string_view text);

}  // namespace palu
