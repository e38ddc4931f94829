// Weighted sums of quantised values by integer products, a block of 64 tokens at a time.
#pragma once

#include "ops/int8_up.h"
#include "ops/lane_keys.h"

namespace palu::cpu {

// As AccumulateCodes (ops/vector.h): acc[g] += sum_t p[g][t] (q_t - zero_t) scale_t over at most 64
// tokens with one scale each. A row's weights p scale are rounded to 15 bits: each moves by at most
// the row's largest over 65278, less than a sixteenth of what an fp16 value is rounded by; the sums
// are exact. Where this machine or tile has no such kernel: false, and nothing is written.
bool AccumulateCodesInLanes(MatrixView<const float> p, const CodeTile& tile, LaneScratch& scratch,
                            MatrixView<float> acc);

}  // namespace palu::cpu
