#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "base/log.h"

namespace palu {
namespace {

constexpr double kBarInterval = 0.1;    // seconds between redraws
constexpr double kLineInterval = 10.0;  // seconds between plain lines, or
constexpr double kLineFraction = 0.1;   // this part of the work, but
constexpr double kMinLineInterval = 1;  // never more often than this
constexpr int kBarCells = 24;

class StderrSink : public ProgressSink {
 public:
  bool is_terminal() const override { return isatty(STDERR_FILENO) == 1; }
  int width() const override {
    winsize size{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return known ? size.ws_col : 80;
  }
  void SetStatus(std::string_view text) override { SetStatusLine(text); }
  void Line(std::string_view text) override { LogLine(LogLevel::kInfo, text); }
};

ProgressSink& Stderr() {
  static StderrSink sink;
  return sink;
}

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Fraction(const ProgressState& s) {
  if (s.total <= 0) return 0;
  return std::clamp(static_cast<double>(s.done) / static_cast<double>(s.total), 0.0, 1.0);
}

// "123/768 windows", or "123 windows" without a total.
std::string Count(const ProgressState& s) {
  return s.total > 0 ? fmt::format("{}/{} {}", s.done, s.total, s.unit)
                     : fmt::format("{} {}", s.done, s.unit);
}

std::string Rate(const ProgressState& s) {
  if (s.seconds <= 0) return "?";
  const double rate = static_cast<double>(s.done) / s.seconds;
  if (rate >= 1e6) return fmt::format("{:.1f}M", rate / 1e6);
  if (rate >= 1e4) return fmt::format("{:.1f}k", rate / 1e3);
  return rate < 10 ? fmt::format("{:.2f}", rate) : fmt::format("{:.0f}", rate);
}

}  // namespace

std::string FormatDuration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest)
                   : fmt::format("{}:{:02}", minutes, rest);
}

double SecondsLeft(const ProgressState& s) {
  if (s.done <= 0 || s.total <= 0) return std::numeric_limits<double>::infinity();
  const auto left = static_cast<double>(std::max<int64_t>(0, s.total - s.done));
  return s.seconds * left / static_cast<double>(s.done);
}

std::string ProgressBar(const ProgressState& s, int width) {
  std::string text;
  if (s.total > 0) {
    const int filled = static_cast<int>(Fraction(s) * kBarCells);
    text = fmt::format("{} [{:#<{}}{:.<{}}] {:3.0f} %  {}  {}/s  {} left", s.label, "", filled, "",
                       kBarCells - filled, std::floor(Fraction(s) * 100), Count(s), Rate(s),
                       FormatDuration(SecondsLeft(s)));
  } else {
    text = fmt::format("{}  {}  {}/s  {}", s.label, Count(s), Rate(s), FormatDuration(s.seconds));
  }
  // A line as wide as the terminal would wrap and could not be rewritten.
  return text.substr(0, static_cast<size_t>(std::max(1, width - 1)));
}

std::string ProgressLine(const ProgressState& s) {
  if (s.total <= 0) return fmt::format("{}: {}, {}/s", s.label, Count(s), Rate(s));
  return fmt::format("{}: {} ({:.0f} %), {}/s, {} left", s.label, Count(s),
                     std::floor(Fraction(s) * 100), Rate(s), FormatDuration(SecondsLeft(s)));
}

std::string ProgressSummary(const ProgressState& s) {
  const std::string time = FormatDuration(s.seconds);
  if (s.done < s.total) return fmt::format("{}: stopped at {} after {}", s.label, Count(s), time);
  return fmt::format("{}: {} {} in {}", s.label, s.done, s.unit, time);
}

Progress::Progress(std::string label, int64_t total, std::string unit)
    : Progress(std::move(label), total, std::move(unit), Stderr(), SteadySeconds) {}

Progress::Progress(std::string label, int64_t total, std::string unit, ProgressSink& sink,
                   std::function<double()> now)
    : sink_(sink), now_(std::move(now)), quiet_(Quiet()), start_(now_()) {
  state_.label = std::move(label);
  state_.unit = std::move(unit);
  state_.total = total;
  if (quiet_) return;
  if (sink_.is_terminal()) {
    sink_.SetStatus(ProgressBar(state_, sink_.width()));
  } else {
    sink_.Line(total > 0 ? fmt::format("{}: {} {}", state_.label, total, state_.unit)
                         : fmt::format("{}: started", state_.label));
  }
}

void Progress::Tick(int64_t units) {
  if (quiet_) return;
  const std::lock_guard lock(mutex_);
  state_.done += units;
  state_.seconds = now_() - start_;
  const double since = state_.seconds - shown_at_;
  if (sink_.is_terminal()) {
    if (since < kBarInterval) return;
    sink_.SetStatus(ProgressBar(state_, sink_.width()));
  } else {
    if (state_.done == state_.total) return;  // the summary follows
    const auto step = static_cast<double>(state_.done - shown_done_);
    const bool far = state_.total > 0 && step >= kLineFraction * static_cast<double>(state_.total);
    if (since < (far ? kMinLineInterval : kLineInterval)) return;
    sink_.Line(ProgressLine(state_));
  }
  shown_at_ = state_.seconds;
  shown_done_ = state_.done;
}

Progress::~Progress() {
  if (quiet_) return;
  try {
    state_.seconds = now_() - start_;
    if (sink_.is_terminal()) sink_.SetStatus("");
    sink_.Line(ProgressSummary(state_));
  } catch (...) {  // a full disk behind stderr must not end the program
  }
}

}  // namespace palu
