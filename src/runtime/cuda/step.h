// What a step tells the device about its tokens and sequences: ids, places and block tables.
#pragma once

#include <vector>

#include "ops/cuda/attention.h"
#include "ops/cuda/row_ops.h"
#include "runtime/forward_pass.h"
#include "tensor/cuda/buffer.h"

namespace palu::cuda {

// Device copies at fixed addresses for steps of at most `max_tokens` tokens and `max_sequences`
// sequences of at most `max_blocks` blocks, so that a captured graph can be replayed on new
// contents. recent: tokens of a sequence's window, 0 for none.
class StepTables {
 public:
  StepTables(int64_t max_tokens, int64_t max_sequences, int64_t max_blocks, int64_t recent);

  bool Fits(int64_t tokens, int64_t sequences, int64_t blocks) const {
    return tokens <= max_tokens_ && sequences <= max_sequences_ && blocks <= max_blocks_;
  }
  int64_t max_blocks() const { return max_blocks_; }  // of a sequence
  // Copies what has changed since the last step; the step's copies have ended before the next call
  // returns.
  void Upload(const Batch& batch, cudaStream_t stream);

  const int32_t* ids() const { return Column(0); }
  TokensView tokens() const { return {Column(1), Column(2), Column(3), count_}; }
  // All sequences of the step, or `count` of them from `first` on.
  SequencesView sequences(int32_t first, int32_t count) const;

 private:
  enum { kIds, kSequence, kIndex, kPosition, kTokenColumns };
  enum { kLengths, kFirstPositions, kWindowBegins, kSequenceColumns };
  const int32_t* Column(int64_t column) const { return ints_.data() + column * max_tokens_; }
  const int32_t* OfSequences(int64_t column) const {
    return Column(kTokenColumns) + column * max_sequences_;
  }
  void PlaceWindows(const Batch& batch, cudaStream_t stream);

  int64_t max_tokens_, max_sequences_, max_blocks_, recent_;
  int64_t count_ = 0;
  PinnedBuffer<int32_t> staging_;  // token columns, then those of sequences
  DeviceBuffer<int32_t> ints_;
  PinnedBuffer<std::byte*> window_staging_;  // [max_sequences], as on the device
  DeviceBuffer<std::byte*> windows_;
  PinnedBuffer<std::byte*> table_staging_;  // [max_sequences, max_blocks], as on the device
  DeviceBuffer<std::byte*> table_;
  std::vector<int64_t> known_;  // blocks of each row that the device has
  Event uploaded_;
};

}  // namespace palu::cuda
