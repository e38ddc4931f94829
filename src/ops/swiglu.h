// The gate of the feed-forward block (Shazeer 2020).
#pragma once

#include "tensor/exec.h"
#include "tensor/tensor.h"

namespace palu {

// gate <- silu(gate) * up, with silu(g) = g / (1 + exp(-g)); both [tokens, d].
// Relative error at most 8 epsilon: exp is good to 2 ulp, and three operations round.
void SwiGlu(const Exec& exec, MatrixView<const float> up, MatrixView<float> gate);

}  // namespace palu
