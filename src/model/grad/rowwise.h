// The layer's row-wise pieces and their derivatives: RMSNorm, rotary embedding, SwiGLU. All over
// T = float or double.
#pragma once

#include <span>

#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace palu::grad {

// out = x / sqrt(mean(x^2) + eps) * weight, row by row. weight: [cols]. out may be x.
template <class T>
void RmsNorm(ThreadPool& pool, MatrixView<const T> x, std::span<const T> weight, double eps,
             MatrixView<T> out);

enum class Into { kOverwrite, kAdd };

// The gradient of the norm's input from dy, that of its output. dx may be dy when overwritten.
template <class T>
void RmsNormBackward(ThreadPool& pool, MatrixView<const T> x, std::span<const T> weight, double eps,
                     MatrixView<const T> dy, Into into, MatrixView<T> dx);

// cos and sin of position * inverse frequency for positions [0, n), computed in float64.
template <class T>
struct RopeTable {
  Matrix<T> cos, sin;  // [n, head_dim / 2]

  void Fill(std::span<const double> inv_freq, int64_t n);
};

// Rotates every head of x [n, heads * head_dim] in place by its row's angles, pairing coordinates
// i and i + head_dim/2 (the "rotate half" convention). The inverse is also the derivative's
// transpose, so the backward pass uses it.
enum class Rotation { kForward, kInverse };
template <class T>
void Rope(ThreadPool& pool, const RopeTable<T>& table, Rotation rotation, MatrixView<T> x);

// out = silu(gate) * up, all [n, inter].
template <class T>
void SwiGlu(ThreadPool& pool, MatrixView<const T> gate, MatrixView<const T> up, MatrixView<T> out);

// Replaces gate and up by their gradients, given that of the output.
template <class T>
void SwiGluBackward(ThreadPool& pool, MatrixView<const T> dout, MatrixView<T> gate,
                    MatrixView<T> up);

}  // namespace palu::grad
