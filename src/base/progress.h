// Progress of long work with an estimate of the time left: one line rewritten on a terminal, plain
// log lines now and then elsewhere, nothing under --quiet.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace palu {

struct ProgressState {
  std::string label;  // what is being done: "calibrate"
  std::string unit;   // what is counted, plural: "tokens"
  int64_t total = 0;  // units in all; <= 0 when not known
  int64_t done = 0;
  double seconds = 0;  // since the start
};

// "0.8 s", "0:34", "12:34", "1:02:03"; "?" for what is negative or not finite.
std::string FormatDuration(double seconds);
// Seconds left at the average pace so far; infinite before the first unit or without a total.
double SecondsLeft(const ProgressState& state);
// The terminal's line, cut to `width` columns, and the plain lines.
std::string ProgressBar(const ProgressState& state, int width);
std::string ProgressLine(const ProgressState& state);
std::string ProgressSummary(const ProgressState& state);

// Where progress goes; tests put their own.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual bool is_terminal() const = 0;
  virtual int width() const = 0;                      // columns
  virtual void SetStatus(std::string_view text) = 0;  // rewrites the last line; empty erases it
  virtual void Line(std::string_view text) = 0;
};

class Progress {
 public:
  // Reports to stderr.
  Progress(std::string label, int64_t total, std::string unit);
  // `now` gives seconds from any origin; `sink` outlives this object.
  Progress(std::string label, int64_t total, std::string unit, ProgressSink& sink,
           std::function<double()> now);
  // Ends the line: the total time, or how far the work came when it stopped early.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Counts finished units, from any thread.
  void Tick(int64_t units = 1);

 private:
  ProgressSink& sink_;
  const std::function<double()> now_;
  const bool quiet_;
  double start_ = 0;
  std::mutex mutex_;  // guards what follows
  ProgressState state_;
  double shown_at_ = 0;
  int64_t shown_done_ = 0;
};

}  // namespace palu
