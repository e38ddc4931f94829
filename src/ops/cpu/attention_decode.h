// Decode attention: few query rows stream over the stored rows of a sequence.
#pragma once

#include <algorithm>

#include "ops/attention.h"

namespace palu::cpu {

// Keys that one decode task covers. Splits lie at multiples of this, so that neither the batch nor
// the number of threads changes a result.
inline constexpr int64_t kDecodeSplit = 256;

// The KV heads that one decode task takes together, so that a page is unpacked once for all of its
// heads: those of the wider page of the two projections.
struct DecodeUnit {
  const AttentionLayer& layer;
  const QueryChunk& chunk;
  const RecentRows& recent;
  int64_t first_head;  // KV heads

  static int64_t HeadsPerUnit(const AttentionLayer& layer);
  int64_t heads() const { return HeadsPerUnit(layer); }
  // Query rows (token, query head) of one KV head, and of all: rows are KV-head-major.
  int64_t rows_per_head() const { return chunk.count * layer.heads_per_kv(); }
  int64_t rows() const { return heads() * rows_per_head(); }
  // Of the tile [first, first + count): the first token that is met as it was.
  int64_t RecentBegin(int64_t first, int64_t count) const {
    return std::clamp(recent.Begin(chunk, chunk.start + chunk.count - 1), first, first + count);
  }
  // Columns of the partial results: the widest value page.
  int64_t width() const;
};

// One split's part: acc [rows, width] and states [rows] receive the unnormalised partial result.
// Runs on the calling thread.
void DecodeSplit(const DecodeUnit& unit, int64_t split, MatrixView<const float> q,
                 AttentionWorkspace::PerWorker& scratch, MatrixView<float> acc,
                 SoftmaxState* states);

// Merges the splits' results ([splits * rows, width]) in order, applies U_v where it is not fused,
// and writes the heads' outputs.
void FinishDecode(const DecodeUnit& unit, int64_t splits, MatrixView<float> acc,
                  SoftmaxState* states, MatrixView<float> out);

}  // namespace palu::cpu
