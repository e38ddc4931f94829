// Decode attention over keys and values that are stored as they are.
#pragma once

#include "ops/cuda/attention.h"

namespace palu::cuda {

// Keys after RoPE and values, both elements of F16 or BF16, one page per KV head.
bool SupportsPlainDecode(const AttentionView& layer);

// As DecodeWorkspaceBytes and DecodeAttention, for such layers. Queries enter as sums of two
// elements of the keys' type, good to 2^-22 (F16) or 2^-16 (BF16) of themselves; over F16 they stop
// at +-65504.
size_t PlainDecodeWorkspaceBytes(const AttentionView& layer, int32_t count);
void PlainDecode(const AttentionView& layer, const SequencesView& sequences, const float* q,
                 int64_t q_stride, void* workspace, DType out_dtype, void* out,
                 cudaStream_t stream);

}  // namespace palu::cuda
