// Rotary position embedding (Su et al. 2021) in Hugging Face's "rotate half" layout: dimension i is
// paired with i + d/2.
#pragma once

#include <span>
#include <vector>

#include "ops/rope_config.h"
#include "tensor/exec.h"
#include "tensor/tensor.h"

namespace palu {

// Radians per position of each of the head_dim / 2 pairs, scaling (linear, llama3) applied.
std::vector<double> InverseFrequencies(const RopeConfig& config, int64_t head_dim);

// cos, sin [n, d/2] of position * inverse frequency. The angle is formed and reduced in double, so
// the result is good to float precision for positions up to 2^31.
void FillCosSin(std::span<const int64_t> positions, std::span<const double> inverse_frequencies,
                MatrixView<float> cos, MatrixView<float> sin);

enum class Rotation { kForward, kInverse };

// Rotates `heads` heads of one token in place: x [heads * 2 * half], cos and sin [half].
//   x[i]        <- x[i] cos[i] - x[i + half] sin[i]
//   x[i + half] <- x[i + half] cos[i] + x[i] sin[i]
void ApplyRope(float* x, int64_t heads, int64_t half, const float* cos, const float* sin,
               Rotation rotation = Rotation::kForward);

// One token per row: x [n, heads * d], cos and sin [n, d/2].
void ApplyRopeRows(const Exec& exec, int64_t heads, MatrixView<const float> cos,
                   MatrixView<const float> sin, MatrixView<float> x,
                   Rotation rotation = Rotation::kForward);

}  // namespace palu
