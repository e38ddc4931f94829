// BF16 checkpoints computed in F16. A BF16 weight has 8 bits of significand and F16 has 11, so that
// nearly every weight is the same number in both, and activation rows, which a product of many rows
// takes in the weights' type, are rounded eight times finer.
#pragma once

#include "runtime/cuda/device_weights.h"

namespace palu::cuda {

// Converts all matrices in place from BF16 to F16 and returns true, or leaves them when F16 would
// not do:
// - a matrix has a weight beyond F16's range, or rounding it to F16 moves it by more than 2^-13 of
//   its norm, a sixteenth of what BF16's own roundings (2^-9) may have moved it by;
// - rows could overflow: normalised rows are at most sqrt(hidden) * max |norm weight|. Rows of
//   gate * up are at most the product of what Cauchy-Schwarz allows both, and DeviceLayer's
//   gated_scale is chosen so that they fit.
// Attention's output, sums of stored values with weights that add up to 1, stops at the largest F16
// as values stored in F16 do. `dtype` of the weights changes with the matrices. Waits for the
// stream.
bool TakeHalf(const ModelConfig& config, DeviceWeights& weights, cudaStream_t stream);

}  // namespace palu::cuda
