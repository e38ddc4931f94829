// Weighted sums of quantised values by integer products, a block of 64 tokens at a time.
#pragma once

#include "ops/lane_keys.h"
#include "ops/paged_kv.h"

namespace palu::cpu {

// As AccumulateCodes (ops/vector.h), from the packed rows of a block: acc[g] += sum_t p[g][t]
// (q_t - zero_t) scale_t over the first p.cols <= 64 of them, one scale each; memory of all 64 is
// read. A row's weights p scale are rounded to 15 bits: each moves by at most the row's largest
// over 65278, less than a sixteenth of what an fp16 value is rounded by; the sums are exact. Where
// this machine or page has no such kernel: false, and nothing is written.
bool AccumulateCodesInLanes(MatrixView<const float> p, const LatentQuantization& quantization,
                            const PackedRows& rows, LaneScratch& scratch, MatrixView<float> acc);

}  // namespace palu::cpu
