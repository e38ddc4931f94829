// What a step runs: a pure function of a snapshot, so that it can be tested without a model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace palu {

struct SchedulerLimits {
  int64_t step_tokens = 2048;  // tokens of all chunks of a step
  int64_t chunk_tokens = 512;  // tokens of one prefill chunk
  // Chunks end at multiples of chunk_tokens and never mix prompt and generated tokens, so that a
  // sequence is cut the same way whatever else runs.
  bool fixed_chunks = false;
};

// A sequence as the scheduler sees it, in order of arrival.
struct SequenceState {
  int64_t tokens = 0;  // prompt and generated so far
  int64_t prompt = 0;  // of them in the prompt
  int64_t stored = 0;  // of them in the cache
};

struct PlannedChunk {
  size_t sequence = 0;  // index in the snapshot
  int64_t count = 0;
};

// Sequences that need one token go first (they are decoding), then prefill chunks in order of
// arrival, within the limits. Never empty while any sequence has tokens to store.
std::vector<PlannedChunk> PlanStep(std::span<const SequenceState> sequences,
                                   const SchedulerLimits& limits);

}  // namespace palu
