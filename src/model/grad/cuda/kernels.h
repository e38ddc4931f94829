// The row-wise pieces of the calibration graph and their derivatives on the device, in float32 as
// on the CPU (model/grad/rowwise.h). Nothing here waits for the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "tensor/dtype.h"
#include "tensor/tensor.h"

namespace palu::cuda {

// `count` tokens of `per_token` rows side by side, each `width` wide: per_token is 1 for the
// residual stream and the number of heads for what q_norm and k_norm see.
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;  // elements between tokens
  int64_t count = 0;
  int32_t per_token = 1;
  int32_t width = 0;
};

// to[i] = from[i] as float; F32, F16 or BF16.
void Widen(const void* from, DType dtype, int64_t n, float* to, cudaStream_t stream);
// to [rows, cols] contiguous.
void Widen(MatrixView<const float> from, double* to, cudaStream_t stream);

// x[t] += bias, in every row.
void AddBias(const float* bias, Rows x, cudaStream_t stream);

// y = x / sqrt(mean(x²) + eps) * weight, row by row; y may be x.
void NormRows(Rows x, const float* weight, float eps, Rows y, cudaStream_t stream);

// dx = the gradient of NormRows' x from dy, or dx += with `add`; dx may be dy.
void NormRowsBackward(Rows x, const float* weight, float eps, Rows dy, bool add, Rows dx,
                      cudaStream_t stream);

// Rotates every row of x by its token's angles, cos and sin [count, width / 2]; the inverse is the
// derivative's transpose.
void Rotate(const float* cos, const float* sin, bool inverse, Rows x, cudaStream_t stream);

// out = silu(gate) * up. gate_up [n, 2 inter], gate first; out [n, inter].
void GatedRows(const float* gate_up, int64_t n, int64_t inter, float* out, cudaStream_t stream);
// Replaces gate and up by their gradients, given that of out.
void GatedRowsBackward(const float* dout, int64_t n, int64_t inter, float* gate_up,
                       cudaStream_t stream);

// scores [heads, rows, keys]: row i of every head sees keys [0, first + i] and becomes their
// softmax, with zeros beyond.
void CausalSoftmax(float* scores, int64_t heads, int64_t rows, int64_t keys, int64_t first,
                   cudaStream_t stream);
// dp <- p (dp - rowsum(p dp)), both [rows, keys].
void SoftmaxBackward(const float* p, float* dp, int64_t rows, int64_t keys, cudaStream_t stream);

// logits [rows, vocab] <- the gradient of weight * sum over rows of -log softmax(row)[target].
void CrossEntropyBackward(float* logits, int64_t rows, int64_t vocab, const int32_t* targets,
                          float weight, cudaStream_t stream);

// sum += x², in float64.
void AddSquares(const float* x, int64_t n, double* sum, cudaStream_t stream);

// sum [cols] += the sum of x's rows [rows, cols].
void AddColumns(const double* x, int64_t rows, int64_t cols, double* sum, cudaStream_t stream);

// sum [cols] += the sum of squares of x's rows.
void AddColumnSquares(MatrixView<const float> x, double* sum, cudaStream_t stream);

// One query head of every KV head, and its rows [first, first + rows) of scores.
struct NearQueries {
  int32_t kv_heads = 0, head_dim = 0;
  int64_t first = 0, rows = 0, recent = 0;
  const float *p = nullptr, *ds = nullptr;    // [kv_heads, rows, first + rows]
  float scale = 1;                            // of ds
  const float *q = nullptr, *dout = nullptr;  // row 0 of the first head; heads `step` apart
  int64_t q_stride = 0, dout_stride = 0, step = 0;
};
// near [n, 2 n_kv*d], keys before values, += what these queries add to the gradients of keys less
// than `recent` tokens before them (model/grad/attention.h).
void AddNear(const NearQueries& queries, float* near, cudaStream_t stream);

// part [rows, cols] contiguous = whole - part.
void TakeFrom(MatrixView<const float> whole, float* part, cudaStream_t stream);

}  // namespace palu::cuda
