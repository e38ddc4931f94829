#include "base/progress.h"

#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/log.h"
#include "testing.h"

namespace palu {
namespace {

struct FakeSink : ProgressSink {
  explicit FakeSink(bool on_terminal) : terminal(on_terminal) {}
  bool is_terminal() const override { return terminal; }
  int width() const override { return 80; }
  void SetStatus(std::string_view text) override { statuses.emplace_back(text); }
  void Line(std::string_view text) override { lines.emplace_back(text); }
  bool terminal;
  std::vector<std::string> statuses, lines;
};

struct FakeClock {
  double seconds = 100;
  std::function<double()> now() {
    return [this] { return seconds; };
  }
};

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(FormatDuration(0), "0.0 s");
  EXPECT_EQ(FormatDuration(0.84), "0.8 s");
  EXPECT_EQ(FormatDuration(9.96), "0:10");
  EXPECT_EQ(FormatDuration(59.6), "1:00");
  EXPECT_EQ(FormatDuration(754), "12:34");
  EXPECT_EQ(FormatDuration(3599.7), "1:00:00");
  EXPECT_EQ(FormatDuration(3723), "1:02:03");
  EXPECT_EQ(FormatDuration(360000), "100:00:00");
  EXPECT_EQ(FormatDuration(-1), "?");
  EXPECT_EQ(FormatDuration(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(FormatDuration(std::numeric_limits<double>::quiet_NaN()), "?");
}

TEST(Progress, EstimatesTheTimeLeft) {
  EXPECT_EQ(SecondsLeft({"a", "b", 100, 25, 10}), 30);
  EXPECT_EQ(SecondsLeft({"a", "b", 100, 100, 10}), 0);
  EXPECT_EQ(SecondsLeft({"a", "b", 100, 120, 10}), 0);
  EXPECT_EQ(SecondsLeft({"a", "b", 100, 0, 10}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(SecondsLeft({"a", "b", 0, 5, 10}), std::numeric_limits<double>::infinity());
}

TEST(Progress, DrawsTheBar) {
  const ProgressState state{"calibrate", "windows", 768, 384, 100};
  EXPECT_EQ(ProgressBar(state, 200),
            "calibrate [############............]  50 %  384/768 windows  3.84/s  1:40 left");
  EXPECT_EQ(ProgressBar(state, 20), "calibrate [########");
  EXPECT_EQ(ProgressBar({"read", "files", 0, 30, 3}, 80), "read  30 files  10/s  3.0 s");
  EXPECT_EQ(ProgressBar({"read", "files", 2, 0, 0}, 80),
            "read [........................]   0 %  0/2 files  ?/s  ? left");
}

TEST(Progress, TerminalIsRedrawnAtMostTenTimesASecond) {
  FakeSink sink(true);
  FakeClock clock;
  {
    Progress progress("work", 1000, "steps", sink, clock.now());
    for (int i = 0; i < 1000; ++i) {
      clock.seconds += 0.001;
      progress.Tick();
    }
    EXPECT_LE(sink.statuses.size(), 11u);
    EXPECT_GE(sink.statuses.size(), 9u);
  }
  EXPECT_EQ(sink.statuses.back(), "");  // erased
  EXPECT_EQ(sink.lines, std::vector<std::string>{"work: 1000 steps in 1.0 s"});
}

TEST(Progress, ElsewhereThereAreFewPlainLines) {
  FakeSink sink(false);
  FakeClock clock;
  {
    Progress progress("work", 20, "steps", sink, clock.now());
    for (int i = 0; i < 20; ++i) {
      clock.seconds += 4;
      progress.Tick();
    }
  }
  ASSERT_EQ(sink.lines.size(), 11u);  // a tenth is two steps; the last tenth is the summary
  EXPECT_EQ(sink.lines.front(), "work: 20 steps");
  EXPECT_EQ(sink.lines[1], "work: 2/20 steps (10 %), 0.25/s, 1:12 left");
  EXPECT_EQ(sink.lines.back(), "work: 20 steps in 1:20");
  EXPECT_TRUE(sink.statuses.empty());
}

TEST(Progress, SlowWorkReportsEveryTenSeconds) {
  FakeSink sink(false);
  FakeClock clock;
  Progress progress("work", 1000000, "steps", sink, clock.now());
  for (int i = 0; i < 60; ++i) {
    clock.seconds += 1;
    progress.Tick();
  }
  EXPECT_EQ(sink.lines.size(), 7u);
}

TEST(Progress, AnExceptionEndsTheLine) {
  FakeSink sink(false);
  FakeClock clock;
  try {
    Progress progress("work", 4, "steps", sink, clock.now());
    progress.Tick();
    clock.seconds += 2;
    throw std::runtime_error("no");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(sink.lines.back(), "work: stopped at 1/4 steps after 2.0 s");
}

TEST(Progress, QuietPrintsNothing) {
  FakeSink sink(false), terminal(true);
  FakeClock clock;
  SetQuiet(true);
  {
    Progress a("work", 1, "steps", sink, clock.now());
    Progress b("work", 1, "steps", terminal, clock.now());
    a.Tick();
    b.Tick();
  }
  SetQuiet(false);
  EXPECT_TRUE(sink.lines.empty() && sink.statuses.empty());
  EXPECT_TRUE(terminal.lines.empty() && terminal.statuses.empty());
}

TEST(Progress, CountsFromManyThreads) {
  FakeSink sink(true);
  {
    Progress progress("work", 4000, "steps", sink, [] { return 0.0; });
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 1000; ++i) progress.Tick();
      });
    }
  }
  EXPECT_EQ(sink.lines.back(), "work: 4000 steps in 0.0 s");
}

}  // namespace
}  // namespace palu
