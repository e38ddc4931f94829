#pragma once

#include "ops/attention.h"

namespace palu::cpu {

// Keys that one decode task covers. Splits lie at multiples of this, so that neither the batch nor
// the number of threads changes a result.
inline constexpr int64_t kDecodeSplit = 1024;

// One split's part for the queries of a chunk and all query heads of one KV head: rows are
// (token, query head). acc [rows, width] and states [rows] receive the unnormalised partial result.
// Runs on the calling thread and reads stored rows only.
void DecodeSplit(const AttentionLayer& layer, const QueryChunk& chunk, int64_t kv_head,
                 int64_t split, MatrixView<const float> q, AttentionWorkspace::PerWorker& scratch,
                 MatrixView<float> acc, SoftmaxState* states);

// Merges the splits' results ([splits * rows, width]) in order, applies U_v where it is not fused,
// and writes the heads' outputs.
void FinishDecode(const AttentionLayer& layer, const QueryChunk& chunk, int64_t kv_head,
                  int64_t splits, MatrixView<float> acc, SoftmaxState* states,
                  MatrixView<float> out);

}  // namespace palu::cpu
