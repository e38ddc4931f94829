// Decode scores from codes with tokens in vector lanes (ops/lane_keys.h).
#pragma once

#include "ops/cpu/attention_decode.h"

namespace palu::cpu {

// scores [rows, <= 64]: scratch.queries times the unit's keys of the block from token `first` on,
// as stored. Rows of `scores` are 64 apart or more, and all 64 are written.
void ScoreTileInLanes(const DecodeUnit& unit, int64_t first, AttentionWorkspace::PerWorker& scratch,
                      MatrixView<float> scores);

}  // namespace palu::cpu
