#include "runtime/scheduler.h"

#include <algorithm>

namespace palu {
namespace {

int64_t NextChunk(const SequenceState& sequence, const SchedulerLimits& limits) {
  const int64_t pending = sequence.tokens - sequence.stored;
  if (!limits.fixed_chunks) return std::min(pending, limits.chunk_tokens);
  if (sequence.stored >= sequence.prompt) return std::min<int64_t>(pending, 1);
  const int64_t to_boundary = limits.chunk_tokens - sequence.stored % limits.chunk_tokens;
  return std::min(sequence.prompt - sequence.stored, to_boundary);
}

}  // namespace

std::vector<PlannedChunk> PlanStep(std::span<const SequenceState> sequences,
                                   const SchedulerLimits& limits) {
  std::vector<PlannedChunk> plan;
  int64_t left = limits.step_tokens;
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < sequences.size(); ++i) {
      const SequenceState& sequence = sequences[i];
      const int64_t pending = sequence.tokens - sequence.stored;
      if (pending <= 0 || (pending == 1) != decoding) continue;
      int64_t count = NextChunk(sequence, limits);
      if (count > left) {
        if (!plan.empty() && (limits.fixed_chunks || left == 0)) continue;
        if (!limits.fixed_chunks) count = left;
      }
      plan.push_back({i, count});
      left = std::max<int64_t>(0, left - count);
    }
  }
  return plan;
}

}  // namespace palu
