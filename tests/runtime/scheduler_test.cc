#include "runtime/scheduler.h"

#include <map>

#include "base/rng.h"
#include "testing.h"

namespace palu {
namespace {

std::map<size_t, int64_t> Plan(std::vector<SequenceState> sequences, SchedulerLimits limits) {
  std::map<size_t, int64_t> counts;
  for (const PlannedChunk& chunk : PlanStep(sequences, limits)) {
    EXPECT_TRUE(counts.emplace(chunk.sequence, chunk.count).second) << "a sequence occurs twice";
  }
  return counts;
}

TEST(Scheduler, DecodingGoesBeforePrefill) {
  const SchedulerLimits limits{.step_tokens = 10, .chunk_tokens = 8};
  const auto plan = PlanStep({{{20, 20, 0}, {5, 4, 4}, {9, 9, 8}}}, limits);
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].sequence, 1u);
  EXPECT_EQ(plan[1].sequence, 2u);
  EXPECT_EQ(plan[2].sequence, 0u);
  EXPECT_EQ(plan[2].count, 8);
}

TEST(Scheduler, FillsTheBudgetAndNotMore) {
  const SchedulerLimits limits{.step_tokens = 10, .chunk_tokens = 8};
  EXPECT_EQ(Plan({{20, 20, 0}, {20, 20, 0}, {20, 20, 0}}, limits),
            (std::map<size_t, int64_t>{{0, 8}, {1, 2}}));
}

TEST(Scheduler, FixedChunksEndAtMultiplesAndAtThePromptsEnd) {
  const SchedulerLimits limits{.step_tokens = 100, .chunk_tokens = 8, .fixed_chunks = true};
  EXPECT_EQ(Plan({{20, 20, 0}}, limits).at(0), 8);
  EXPECT_EQ(Plan({{20, 20, 16}}, limits).at(0), 4);
  EXPECT_EQ(Plan({{23, 20, 16}}, limits).at(0), 4);  // after a preemption: prompt first
  EXPECT_EQ(Plan({{23, 20, 20}}, limits).at(0), 1);  // then the generated tokens one by one
}

TEST(Scheduler, FixedChunksWaitInsteadOfShrinking) {
  const SchedulerLimits limits{.step_tokens = 10, .chunk_tokens = 8, .fixed_chunks = true};
  EXPECT_EQ(Plan({{20, 20, 0}, {20, 20, 0}}, limits), (std::map<size_t, int64_t>{{0, 8}}));
  const SchedulerLimits narrow{.step_tokens = 4, .chunk_tokens = 8, .fixed_chunks = true};
  EXPECT_EQ(Plan({{20, 20, 0}}, narrow).at(0), 8) << "a step is never empty";
}

TEST(Scheduler, RandomSnapshotsKeepTheInvariants) {
  Rng rng(1);
  for (int trial = 0; trial < 2000; ++trial) {
    SchedulerLimits limits;
    limits.step_tokens = 1 + static_cast<int64_t>(rng.Below(64));
    limits.chunk_tokens = 1 + static_cast<int64_t>(rng.Below(32));
    limits.fixed_chunks = rng.Below(2) == 1;
    std::vector<SequenceState> sequences(rng.Below(8));
    int64_t pending = 0;
    for (SequenceState& s : sequences) {
      s.prompt = 1 + static_cast<int64_t>(rng.Below(100));
      s.tokens = s.prompt + static_cast<int64_t>(rng.Below(10));
      s.stored = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(s.tokens + 1)));
      pending += s.tokens - s.stored;
    }
    const auto plan = Plan(sequences, limits);
    EXPECT_EQ(plan.empty(), pending == 0);
    int64_t total = 0;
    for (const auto& [i, count] : plan) {
      EXPECT_GT(count, 0);
      EXPECT_LE(count, sequences[i].tokens - sequences[i].stored);
      EXPECT_LE(count, limits.chunk_tokens);
      total += count;
    }
    if (plan.size() > 1 || !limits.fixed_chunks) {
      EXPECT_LE(total, limits.step_tokens);
    }
  }
}

}  // namespace
}  // namespace palu
