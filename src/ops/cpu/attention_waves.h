// Decode scores from latents that are not quantised, slow rotary pairs as waves
// (ops/frequency_split.h), in float32.
#pragma once

#include "ops/cpu/attention_decode.h"
#include "ops/cpu/attention_tiles.h"

namespace palu::cpu {

// scores [rows, tile]: scratch.queries times the unit's keys from token `first` on, one reader per
// head. False, and nothing is done, where whole keys cost no more.
bool ScoreTileByWaves(const DecodeUnit& unit, std::span<const TileReader> keys, int64_t first,
                      AttentionWorkspace::PerWorker& scratch, MatrixView<float> scores);

}  // namespace palu::cpu
