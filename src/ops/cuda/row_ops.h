// What happens to rows of activations between the products: one row per token, in device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention.h"
#include "ops/cuda/linear.h"

namespace palu::cuda {

// Where each token of a step belongs; device memory, [tokens].
struct TokensView {
  const int32_t* sequence = nullptr;  // row of the block table
  const int32_t* index = nullptr;     // of the token in its sequence
  const int32_t* position = nullptr;  // for RoPE
  int64_t count = 0;
};

// out[i] = table[ids[i]] as float; table [vocab, d], out [ids, d].
void GatherRows(const DeviceMatrix& table, const int32_t* ids, const DeviceMatrix& out,
                cudaStream_t stream);

// out[i] = x[rows[i]], both of x's dtype.
void SelectRows(const DeviceMatrix& x, const int32_t* rows, const DeviceMatrix& out,
                cudaStream_t stream);

// y = x / sqrt(mean(x²) + eps) * weight: x [m, d] float, weight [d], y [m, d] of any dtype.
void RmsNorm(const DeviceMatrix& x, const float* weight, float eps, const DeviceMatrix& y,
             cudaStream_t stream);

// out = scale * silu(gate) * up for gate_up [m, 2 d] float (gate in the first d columns), out [m,
// d].
void SwiGlu(const DeviceMatrix& gate_up, const DeviceMatrix& out, float scale, cudaStream_t stream);

// out = x rounded to out's dtype; x float, both may be strided.
void ConvertRows(const DeviceMatrix& x, const DeviceMatrix& out, cudaStream_t stream);

// Keys or values of a step on their way into the cache: `column` is where page 0 starts in a row.
struct StoreView {
  ProjectionView projection;
  int64_t column = 0;
  float clip_ratio = 1;
};

// What is normalised, where there is a norm, and turned by its position's angles before keys are
// stored: queries in place, plain keys (a page per head) on their way into the cache, so that x
// keeps them as they were.
struct RotateView {
  RopeView rope;
  int32_t head_dim = 0;  // at most 256
  float norm_eps = 0;
  int32_t query_heads = 0;            // from column 0 of a row on
  const float* query_norm = nullptr;  // [d]; null: none
  bool keys = false;
  const float* key_norm = nullptr;
};

// Rounds or quantises and packs each token's row of x [tokens, ...] float into its pages, keys and
// values in one launch, bit for bit as ops/latent_quantization.h does; latents of the sequences'
// last tokens (sequences.lengths counts those of the step) also into their windows. A latent that
// is not finite sets *fault to `layer` + 1 (which stays until the caller clears it). The launch
// waits for the kernel before it by itself (launch_early.cuh).
void StoreRows(const RotateView& rotate, const StoreView& keys, const StoreView& values,
               const SequencesView& sequences, const TokensView& tokens, const DeviceMatrix& x,
               int32_t layer, int32_t* fault, cudaStream_t stream);

// Latents of recent tokens for PrefillAttention, before StoreRows puts those of the step in their
// place: row i of out [rows, width of all pages] (F16, BF16 or F32) is token first + i, rounded to
// fp16 first. Tokens before `begin` are zeros, those before `start` come from the only sequence's
// window, the others from x, row 0 of which is token `start`.
void GatherRecent(const StoreView& latents, const SequencesView& sequence, int64_t first,
                  int64_t begin, int64_t start, const DeviceMatrix& x, const DeviceMatrix& out,
                  cudaStream_t stream);

// For every row of logits [m, n] float: the first of the largest, and log softmax(row)[target]
// (summed in float64). targets null: only the argmax. A negative target gives 0.
void LogProbs(const DeviceMatrix& logits, const int32_t* targets, double* logprobs, int32_t* argmax,
              cudaStream_t stream);

}  // namespace palu::cuda
