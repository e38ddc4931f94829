#pragma once

#include "ops/attention.h"

namespace palu::cpu {

// Attention of queries [begin, begin + count) of a chunk and all query heads of one KV head, key
// tile by key tile with an online softmax, products by GEMM. Runs on the calling thread.
void PrefillHead(const AttentionLayer& layer, const QueryChunk& chunk, int64_t kv_head,
                 int64_t begin, int64_t count, MatrixView<const float> q, FreshRows fresh,
                 const RecentRows& recent, AttentionWorkspace::PerWorker& scratch,
                 MatrixView<float> out);

}  // namespace palu::cpu
