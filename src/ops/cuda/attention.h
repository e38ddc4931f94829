// Causal attention on the device over the paged cache (ops/attention.h says what is computed).
//
// Two ways: DecodeAttention, one query token per sequence, reads stored pages and rebuilds keys in
// registers; PrefillAttention works on keys and values that RebuildRows has written out densely.
// All views hold device pointers and are passed by value; nothing here waits for the device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "tensor/tensor.h"

namespace palu::cuda {

// A tier of a page (docs/cache-layout.md): 64 rows of codes, then a byte of scale for each.
struct TierView {
  int32_t offset = 0;  // bytes from the start of the page
  int32_t width = 0;   // latents per token, a multiple of 16
  int32_t column = 0;  // of the first one in the page
  int32_t bits = 0;    // 2, 3, 4 or 8

  __host__ __device__ int32_t code_bytes() const { return width * bits / 8; }  // of a token
  __host__ __device__ int32_t bytes() const { return 64 * (code_bytes() + 1); }
};
inline constexpr int32_t kMaxTiers = 4;  // of a page: one of every number of bits

// One page of a layer's keys or values (ops/paged_kv.h).
struct PageView {
  int64_t offset = 0;               // bytes from the start of the block
  int32_t width = 0;                // elements per token
  const void* up = nullptr;         // U [heads_per_page * d, width], row-major, latents only
  const void* packed_up = nullptr;  // the same as PackUp writes it; DecodeAttention reads K's so
  int32_t column = 0;               // widths of the pages before it
  const void* split_up = nullptr;   // U of keys as PackSplitUp writes it, or null
  int64_t window_offset = 0;        // bytes from the start of a sequence's window; kTiers only
  int32_t tier_count = 0;           // one after the other in the page; kTiers only
  TierView tiers[kMaxTiers] = {};
};

inline constexpr int32_t kTiers = 0;  // in place of bits: every tier has its own

// Keys or values of one layer.
struct ProjectionView {
  const PageView* pages = nullptr;  // device memory, [page_count]
  int32_t page_count = 0;
  int32_t heads_per_page = 1;  // KV heads
  int32_t max_width = 0;       // of all pages
  bool latent = false;         // else keys after RoPE, values as they are
  int32_t bits = 16;  // 2, 3, 4, 8 or kTiers: codes (docs/cache-layout.md); 16: elements of dtype
  int32_t run = 0;    // latents per scale; 0: the page's whole width
  bool symmetric = false;     // no zeros are stored; the zero is 2^(bits-1)
  DType dtype = DType::kF16;  // of elements when bits is 16: F16, BF16 or F32
  DType up_dtype = DType::kF16;
  const float* bias = nullptr;  // [n_kv*d] added to rebuilt heads; null: none
  const float* norm = nullptr;  // [d] RMSNorm of rebuilt keys before RoPE; null: none
  float norm_eps = 0;
  bool rotary_basis = false;   // keys: HasRotaryBasis of all pages
  int32_t width_divisor = 1;   // largest number that divides all widths
  int32_t max_tier_bytes = 0;  // of all pages; kTiers only
};

// Rotary angles. The exact ones (method: position * turns reduced in float64) suit every position;
// float32_angles rounds the product as RopeAngles::kFloat32 says. DecodeAttention takes the exact
// ones whatever float32_angles says.
struct RopeView {
  const double* turns = nullptr;  // [d/2] revolutions per position: inverse frequency / (2 pi)
  const float2* tile = nullptr;   // [64, d/2] cos, sin of positions 0..63
  const float* inverse_frequencies = nullptr;  // [d/2], for float32_angles
  bool float32_angles = false;
};

// A frequency split of the keys' rotary pairs (ops/frequency_split.h) in device memory; without
// terms there is none. The waves of a grouped form (split_plan.h) are times kWaveDown.
struct SplitView {
  const float* basis = nullptr;          // [block_tokens, terms]
  const float2* coefficients = nullptr;  // [terms, slow pairs]
  int32_t block_tokens = 0, exact_pairs = 0, terms = 0;
};

struct AttentionView {
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1;  // 1/sqrt(d)
  // Decode: cut every context the same way for every count, so that a sequence gives the same bits
  // alone and in any batch; costs parallelism that is not needed in large batches.
  bool batch_invariant = false;
  bool shared_latents = false;  // v's pages are k's, with U of their own; nothing is stored twice
  RopeView rope;
  SplitView split;
  ProjectionView k, v;

  __host__ __device__ int32_t heads_per_kv() const { return heads / kv_heads; }
};

// Windows of recent tokens (docs/cache-layout.md), where a model has them: for every page a ring
// [tokens, width] of F16, token t in row t % tokens. A query meets the last `tokens` tokens, its
// own included, from there as far as the window reaches back.
struct RecentView {
  std::byte* const* windows = nullptr;  // device memory, [count]
  const int32_t* begins = nullptr;      // [count] first token that a window holds
  int32_t tokens = 0;                   // 0: no windows
};

// The sequences of a decode step, one query row each.
struct SequencesView {
  std::byte* const* blocks = nullptr;        // device memory, [count, stride] block addresses
  int32_t stride = 0;                        // blocks per row of the table
  const int32_t* lengths = nullptr;          // [count] keys that the query sees, itself included
  const int32_t* first_positions = nullptr;  // [count] position of token 0
  int32_t count = 0;
  RecentView recent = {};
};

// Element type of a decode kernel's operands: F16 for codes, else that of the pages.
inline DType OperandType(const ProjectionView& p) { return p.bits == 16 ? p.dtype : DType::kF16; }

// Reorders U of a page of keys for the tensor cores: up [heads_per_page * d, width] of F16 or BF16,
// row-major, becomes as many bytes in `packed` (device memory, not the same), in the order in which
// the threads of a warp hold mma operands. d is 64 or 128, width a multiple of 16.
void PackUp(const void* up, int32_t heads_per_page, int32_t head_dim, int32_t width, void* packed,
            cudaStream_t stream);

// U of a page of keys for decode attention by the frequency split, for `queries` query heads per KV
// head. The bytes for a page, the same for all of a layer; 0 where that kernel does not take the
// keys.
int64_t SplitUpBytes(const ProjectionView& keys, int32_t head_dim, int32_t queries);
// Whether a page's U, [4 * head_dim, width] in host memory, has the zeros of the rotary basis
// (compress/rotary_basis.h), so that products with fast rows end early. False where the kernel does
// not take the keys.
bool HasRotaryBasis(const ProjectionView& keys, const PageView& page, const TensorView& up,
                    int32_t head_dim, int32_t queries);
// page.up is set and of F16.
void PackSplitUp(const ProjectionView& keys, const PageView& page, int32_t head_dim,
                 int32_t queries, void* packed, cudaStream_t stream);

// Whether DecodeAttention takes a layer on the current device: head_dim 64 or 128, F16 or BF16
// pages or codes, at most 8 query heads per KV head, heads_per_page of K and V such that one
// divides the other, page widths up to 1024 that are multiples of 16, of 32 for codes without
// tiers, tiles that fit in shared memory, and U in OperandType (the caller converts it once, and
// packs that of keys).
bool SupportsDecode(const AttentionView& layer);

// Whether keys are not rebuilt but met by rows made from the queries (split_plan.h).
bool DecodesSplit(const AttentionView& layer);

// Bytes of scratch that DecodeAttention needs for up to `count` sequences that together have at
// most `blocks` blocks of 64 tokens.
size_t DecodeWorkspaceBytes(const AttentionView& layer, int32_t count, int64_t blocks);

// q: [count, heads*d] float after RoPE, rows q_stride elements apart. out: [count, heads*d] of
// out_dtype (F32, F16 or BF16), contiguous.
// `workspace` has DecodeWorkspaceBytes, is aligned to 16 bytes and may hold anything. The launch
// depends on `layer`, `count` and the stride of the table alone, never on lengths, so it can be
// captured into a graph. The
// result is the same in every run; a sequence's depends on the others of the batch through `count`
// only, and not at all with batch_invariant.
void DecodeAttention(const AttentionView& layer, const SequencesView& sequences, const float* q,
                     int64_t q_stride, void* workspace, DType out_dtype, void* out,
                     cudaStream_t stream);

// One sequence's keys and values for prefill, dense in device memory: k, v [tokens, n_kv*d] of
// `dtype`, keys after RoPE, tokens consecutive from `first_key` on.
struct DenseKeys {
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t first_key = 0, tokens = 0;
  DType dtype = DType::kBF16;
};

// Which of the keys up to its own the query at token t sees: [max(begin, t + 1 - last),
// max(t - skipped, seen - 1)].
struct KeyBand {
  int64_t begin = 0;                // none before this token
  int64_t last = int64_t{1} << 40;  // only so many, its own the last
  int64_t skipped = 0;              // not the last so many,
  int64_t seen = 0;                 // but those before this token in any case
};

// Consecutive query tokens of one sequence: row i is token start + i.
struct PrefillChunk {
  int64_t start = 0, count = 0;
  KeyBand band = {};
};

// Softmax state of every query row and head, for keys that come in several pieces. A row that has
// seen no key has max -inf and sum 0.
struct SoftmaxStates {
  float* max = nullptr;  // [count, heads], largest q k, not yet times scale
  float* sum = nullptr;  // [count, heads], sum of exp(scale (q k - max))
};

// q: [count, heads*d] of `keys.dtype` (F32, F16 or BF16) after RoPE, contiguous. Adds the attention
// to those of these keys that chunk.band shows a row to (states, acc): acc [count, heads*d] float
// holds sum exp(scale (q k - max)) v. With `first` the old contents are ignored. Call for every
// piece of the context in order, then FinishPrefill. q, k and v are aligned to 16 bytes. A row's
// result is the same in every run and, where pieces begin at multiples of 64 tokens, whatever the
// chunk that it comes in. Any head_dim that is a multiple of 8 up to 256 for F32; 64 and 128 on
// tensor cores for F16 and BF16, other multiples of 8 on the plain kernel.
void PrefillAttention(const AttentionView& layer, const PrefillChunk& chunk, const DenseKeys& keys,
                      const void* q, bool first, SoftmaxStates states, float* acc,
                      cudaStream_t stream);

// out [count, heads*d] of out_dtype = acc / sum; 0 where no key was seen. Here and below F16 stops
// at +-65504 instead of infinity.
void FinishPrefill(const AttentionView& layer, int64_t count, SoftmaxStates states,
                   const float* acc, DType out_dtype, void* out, cudaStream_t stream);

// `page` is in host memory. Tokens [begin, begin + count) of it as stored, one row each: out
// [count, width of the page] of out_dtype, rows out_stride elements apart. `blocks` is one
// sequence's block table in device memory. Widths, runs and out_stride are multiples of 8, pages
// and `out` aligned to 16 bytes.
void ReadPageRows(const ProjectionView& projection, const PageView& page, std::byte* const* blocks,
                  int64_t begin, int64_t count, DType out_dtype, void* out, int64_t out_stride,
                  cudaStream_t stream);

// Ends the rebuilding of keys: rows [count, n_kv*d] float of tokens at positions position,
// position + 1, ... get bias, RMSNorm and RoPE (each where the layer has it) and go to out of
// out_dtype, contiguous. With `keys` false only the bias is added.
void FinishRebuiltRows(const AttentionView& layer, bool keys, int64_t position, const float* rows,
                       int64_t count, DType out_dtype, void* out, cudaStream_t stream);

}  // namespace palu::cuda
