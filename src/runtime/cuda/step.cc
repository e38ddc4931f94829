#include "runtime/cuda/step.h"

#include <algorithm>
#include <utility>

namespace palu::cuda {

StepTables::StepTables(int64_t max_tokens, int64_t max_sequences, int64_t max_blocks,
                       int64_t recent)
    : max_tokens_(max_tokens),
      max_sequences_(max_sequences),
      max_blocks_(max_blocks),
      recent_(recent),
      staging_(kTokenColumns * max_tokens + kSequenceColumns * max_sequences),
      ints_(kTokenColumns * max_tokens + kSequenceColumns * max_sequences),
      window_staging_(max_sequences),
      windows_(max_sequences),
      table_staging_(max_sequences * max_blocks),
      table_(max_sequences * max_blocks),
      known_(static_cast<size_t>(max_sequences), 0) {
  std::fill_n(window_staging_.data(), max_sequences, nullptr);
}

void StepTables::Upload(const Batch& batch, cudaStream_t stream) {
  uploaded_.Wait();  // the last step's copies have left the staging buffers
  count_ = std::ssize(batch.tokens);
  int32_t* lengths = staging_.data() + kTokenColumns * max_tokens_;
  int32_t* first_positions = lengths + kFirstPositions * max_sequences_;
  int32_t* window_begins = lengths + kWindowBegins * max_sequences_;
  int64_t token = 0;
  for (size_t s = 0; s < batch.chunks.size(); ++s) {
    const CachedSequence& sequence = *batch.chunks[s].sequence;
    const int64_t count = batch.chunks[s].count;
    for (int64_t i = 0; i < count; ++i, ++token) {
      const int64_t index = sequence.length() + i;
      staging_[kIds * max_tokens_ + token] = batch.tokens[static_cast<size_t>(token)];
      staging_[kSequence * max_tokens_ + token] = static_cast<int32_t>(s);
      staging_[kIndex * max_tokens_ + token] = static_cast<int32_t>(index);
      staging_[kPosition * max_tokens_ + token] =
          static_cast<int32_t>(sequence.first_position() + index);
    }
    lengths[s] = static_cast<int32_t>(sequence.length() + count);
    first_positions[s] = static_cast<int32_t>(sequence.first_position());
    window_begins[s] = static_cast<int32_t>(sequence.recent_begin());

    // A row changes from the first block that differs: a sequence that grows adds a block at the
    // end.
    const int64_t blocks = BlocksFor(sequence.length() + count);
    std::byte* const* source = sequence.table().blocks;
    std::byte** row = table_staging_.data() + static_cast<int64_t>(s) * max_blocks_;
    const int64_t known = std::min(known_[s], blocks);
    const int64_t same = std::mismatch(row, row + known, source).first - row;
    if (same < blocks) {
      std::copy(source + same, source + blocks, row + same);
      table_.Upload(row + same, blocks - same, stream,
                    static_cast<int64_t>(s) * max_blocks_ + same);
    }
    known_[s] = blocks;
  }
  for (int column = 0; column < kTokenColumns; ++column) {
    ints_.Upload(staging_.data() + column * max_tokens_, count_, stream, column * max_tokens_);
  }
  ints_.Upload(lengths, kSequenceColumns * max_sequences_, stream, kTokenColumns * max_tokens_);
  if (recent_ > 0) PlaceWindows(batch, stream);
  uploaded_.Record(stream);
}

void StepTables::PlaceWindows(const Batch& batch, cudaStream_t stream) {
  bool changed = false;
  for (size_t s = 0; s < batch.chunks.size(); ++s) {
    std::byte* window = batch.chunks[s].sequence->window();
    changed |= std::exchange(window_staging_[static_cast<int64_t>(s)], window) != window;
  }
  if (changed) windows_.Upload(window_staging_.data(), max_sequences_, stream);
}

SequencesView StepTables::sequences(int32_t first, int32_t count) const {
  SequencesView view{table_.data() + first * max_blocks_, static_cast<int32_t>(max_blocks_),
                     OfSequences(kLengths) + first, OfSequences(kFirstPositions) + first, count};
  if (recent_ > 0) {
    view.recent = {windows_.data() + first, OfSequences(kWindowBegins) + first,
                   static_cast<int32_t>(recent_)};
  }
  return view;
}

}  // namespace palu::cuda
