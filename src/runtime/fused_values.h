// Where U_v is applied: inside the output projection, or to the attention's result (method.md
// section 2). Fusing gives W_o' = W_o blockdiag(U_v), which is wider than W_o when the rank of a
// group exceeds head_dim; the form that reads fewer bytes per decoded token is taken.
#pragma once

#include "model/config.h"
#include "model/weights.h"

namespace palu {

enum class ValueFusion { kAuto, kOn, kOff };

struct FusedOutput {
  OwnedTensor weight;  // [hidden, sum over query heads of the rank of the head's group]
  OwnedTensor bias;    // [hidden] o_bias + W_o v_bias; empty when both are absent
  bool has_bias = false;
};

// Bytes of the output projection and of U_v that decoding one token reads.
int64_t UnfusedOutputBytes(const ModelConfig& config, const LayerWeights& layer);
int64_t FusedOutputBytes(const ModelConfig& config, const LayerWeights& layer);

// False for a layer whose values are cached plainly.
bool ShouldFuse(const ModelConfig& config, const LayerWeights& layer, ValueFusion choice);

// Computed in float32, stored as F32 when W_o is, else as F16, whose rounding is finer than bf16's.
FusedOutput FuseOutput(const ModelConfig& config, const LayerWeights& layer);

}  // namespace palu
