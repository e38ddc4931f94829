// Decode attention over latents by the frequency split (ops/frequency_split.h). A score is
// sum_j phi_j(p) (W_j . h) over rows W that meet a key's latent h. Slow rotary pairs have n rows
// per query and block of T tokens, made from the query once per step (split_absorb.cu). Fast pairs:
//   absorbed: one query per KV head; two rows per pair, made from the query, whose waves phi are
//   the
//     cosine and the sine of the position;
//   grouped: several queries share a KV head; their rows are those of U, which rebuild the key's
//   fast
//     pairs, and these are rotated and meet the queries.
// docs/kernels.md has the derivation and the counts.
#pragma once

#include "ops/cuda/decode_plan.h"
#include "ops/latent_order.h"

namespace palu::cuda {

inline constexpr int32_t kSplitPageHeads = 4;   // KV heads of a page
inline constexpr int32_t kMaxSplitWidth = 512;  // of a page

// The shapes that kernels are written for. A unit is what a thread block serves: `heads` KV heads
// of a page with room for `queries` query heads each.
struct SplitForm {
  bool grouped = false;
  int32_t heads = 0, queries = 0;
  int32_t pairs = 0;  // fast ones of a head
  int32_t terms = 0;  // waves of the slow ones

  constexpr int32_t slots() const { return heads * queries; }
  constexpr int32_t fast_rows() const { return heads * 2 * pairs; }
  constexpr int32_t slow_rows() const { return slots() * terms; }
  constexpr int32_t units_per_page() const { return kSplitPageHeads / heads; }
};
struct Absorbed {
  static constexpr SplitForm kForm{false, kSplitPageHeads, 1, 24, 8};
};
template <int kHeads>
struct Grouped {
  static constexpr SplitForm kForm{true, kHeads, 16 / kHeads, 20, 6};
};

// The form for this many query heads per KV head; no heads: none.
SplitForm SplitFormOf(int32_t queries);

// Steps of 32 bytes that hold what rows of the fast pairs of two KV heads of a page may need when
// keys have the rotary basis (compress/rotary_basis.h): of the first two or the last two.
constexpr int RotarySteps(const SplitForm& form, int bits, int half) {
  const int latents = (half + 1) * static_cast<int>(kRotaryHeads) * 2 * form.pairs;
  return (latents + StepElements(bits) - 1) / StepElements(bits);
}

// Rows of U of the slow pairs, both members, filled up to steps of the product that makes W.
__host__ __device__ constexpr int SlowDepth(int head_dim, int pairs) {
  return (head_dim - 2 * pairs + 15) / 16 * 16;
}

// Byte of an element of W [rows, k] in the order of wgmma operands (wgmma.cuh): core matrices of 8
// rows by 16 bytes, neighbours along n one after the other.
__host__ __device__ constexpr int OperandByte(int rows, int row, int byte) {
  return byte / 16 * rows * 16 + row * 16 + byte % 16;
}

// ---- What rows are followed by in the same copy.

// Absorbed: after the rows of fast pairs.
struct FastScales {
  float pairs[Absorbed::kForm.pairs];  // of the pair's two rows in all heads
  float heads[Absorbed::kForm.heads];  // of a head's whole score, with the softmax's own, in log2
  float padding[4];
};
// Absorbed: after the rows of slow pairs.
struct SlowScales {
  float rows[Absorbed::kForm.slow_rows()];
};
static_assert(sizeof(FastScales) == 128 && sizeof(SlowScales) == 128);

// Grouped: products with rows become operands of a product with [k, slot] matrices of fp16, eight
// slots at a time, in the order of its registers: k 2 c, 2 c + 1 (x) and 2 c + 8, 2 c + 9 (y) of
// slot l / 4 for lane l, c = l % 4.
struct Fragment {
  uint32_t x, y;
};
// Steps of 16 rows that meet eight slots: those of the slots' KV heads.
template <int kHeads>
inline constexpr int kFastSteps = kHeads == 4 ? 5 : 3;
// The first of them for slots 8 t and on.
template <int kHeads>
__host__ __device__ constexpr int FirstFastStep(int t) {
  return kHeads == 4 ? 5 * t : 2 * t;
}
inline constexpr int kSlowSteps = 3;
// Key bias b adds to a score what depends on the position alone: the waves of fast pairs times q_x
// b_x
// + q_y b_y and q_y b_x - q_x b_y, and those of slow pairs times W_j b. Both sides of that product
// are sums of two fp16 numbers, since biases can be large. Its third step ends with the slow waves.
inline constexpr int kBiasSteps = 3;
// The queries of a unit: entries of the queries over the rows' scales, and of a slot's whole score;
// with a bias, entries over biases[slot], high and low parts.
template <int kHeads>
struct GroupedQueries {
  Fragment fast[2][kFastSteps<kHeads>][32];
  Fragment bias[2][2][kBiasSteps][32];  // [part][slots]
  float heads[16], biases[16];
};
// Scales of slow rows; zero where a row is another slot's. With a bias, W_j b as biases[slot] has
// it, for terms 2 c and 2 c + 1.
struct GroupedSlowScales {
  Fragment slow[2][kSlowSteps][32];
  uint32_t bias[2][2][32];  // [part][slots]
};
static_assert(sizeof(GroupedQueries<4>) % 128 == 0 && sizeof(GroupedQueries<2>) % 128 == 0);
static_assert(sizeof(GroupedSlowScales) % 128 == 0);
// Powers of two that keep products of bytes within fp16: of a rotated key, at most sqrt(2) 512 127
// 15, and of a product with a wave of rms 1.
inline constexpr float kKeyDown = 1.0f / 32, kWaveDown = 1.0f / 64;

// ---- Shared memory.

inline constexpr int kTileTokens = 64;
inline constexpr int kKeyGroups = 2;  // warpgroups that make scores, of tiles in turn
// Weights of a tile are the right side of a product with its values: of eight slots at least, in
// the order of wgmma operands. Which token is which k is free; lane c of a row has tokens 16 c and
// on, four of a step of 16.
__host__ __device__ constexpr int WeightColumns(const SplitForm& form) {
  return form.slots() > 8 ? 16 : 8;
}
__host__ __device__ constexpr int WeightBytes(const SplitForm& form) {
  return WeightColumns(form) * kTileTokens * 2;
}
__host__ __device__ constexpr int WeightPlace(int columns, int slot, int token) {
  const int k = token % 16 / 4 * 16 + token % 4 / 2 * 8 + 2 * (token / 16) + token % 2;
  return OperandByte(columns, slot, 2 * k);
}

// A page of values lies in shared memory in groups of 16 rows, each followed by 32 bytes that keep
// the same columns of different groups in different banks; then scales and zeros. A page of keys
// lies as in memory.
inline constexpr int kGroupRows = 16, kGroupPadding = 32;
__host__ __device__ constexpr int StagedRow(int row_bytes, int token) {
  return token * row_bytes + token / kGroupRows * kGroupPadding;
}
__host__ __device__ constexpr int StagedScales(int row_bytes) {
  return StagedRow(row_bytes, kTileTokens);
}

// ---- The plan.

// Byte offsets in dynamic shared memory.
struct SplitShared {
  int32_t fast = 0;     // rows of fast pairs, then FastScales or GroupedQueries
  int32_t slow = 0;     // two times: rows of slow pairs, then their scales
  int32_t keys = 0;     // [stages] of key_stage bytes: a page, then phi [64, terms]
  int32_t values = 0;   // [stages] of value_stage bytes
  int32_t weights = 0;  // [key groups, 2] of WeightBytes, then turns [pairs]
  int32_t scratch = 0;
  int32_t key_stage = 0, value_stage = 0, phi = 0;  // phi: from the start of a key stage
  int32_t bytes = 0;
};

// Byte offsets in what PackSplitUp writes for a page.
struct SplitUp {
  int32_t slow = 0;    // [heads] operands [slots, SlowDepth] fp16 (OperandByte): U of slow pairs
  int32_t bounds = 0;  // [heads, d/2] float: the largest |U_x + i U_y| of a pair
  int32_t scales = 0;  // [heads, pairs] float: of a fast pair's two rows; grouped only
  int32_t fast = 0;    // [units of the page] rows of fast pairs, bytes; grouped only
  int64_t bytes = 0;
};

struct SplitPlan {
  SplitForm form;
  int32_t chunks =
      0;  // of the widest page of keys, rounded up to an instance of the kernel; 0: none
  int32_t steps = 0;  // 32-byte steps of W
  int32_t stages = 0;
  int32_t splits = 1, units = 1;
  int32_t multiprocessors = 1;
  bool rotary_basis = false;                 // fast rows end after RotarySteps
  int32_t query_bytes = 0, scale_bytes = 0;  // behind the rows of fast and of slow pairs
  SplitShared shared;
  SplitUp up;

  __host__ __device__ int32_t fast_row_bytes() const {
    return steps * 32 * form.heads * 2 * form.pairs;
  }
  __host__ __device__ int32_t fast_bytes() const { return fast_row_bytes() + query_bytes; }
  // Of `fast` in the workspace: what depends on the queries.
  __host__ __device__ int32_t made_bytes() const {
    return form.grouped ? query_bytes : fast_bytes();
  }
  __host__ __device__ int32_t slow_row_bytes() const {
    return steps * 32 * form.heads * form.queries * form.terms;
  }
  __host__ __device__ int32_t slow_bytes() const { return slow_row_bytes() + scale_bytes; }
  __host__ __device__ int32_t page_of(int32_t unit) const {
    return unit * form.heads / kSplitPageHeads;
  }
};

// Slots of a row W: latents of the widest page, rounded up to an instance of the kernel.
int32_t SplitRowSlots(const ProjectionView& keys);
// No bytes: the kernel does not take such keys.
SplitUp LayOutSplitUp(const ProjectionView& keys, int32_t head_dim, const SplitForm& form);

// Whether the kernel takes a layer on the current device; if not, the plan has no chunks.
SplitPlan PlanSplit(const AttentionView& layer, int32_t count);

struct SplitArguments {
  DecodeArguments decode;  // its plan: units and splits alone
  SplitPlan plan;
  std::byte* fast = nullptr;  // [count, units] of plan.made_bytes()
  std::byte* slow = nullptr;  // [blocks of T tokens of all sequences, units] of plan.slow_bytes()
};

// Bytes of `fast` and `slow`, for sequences that together have at most `blocks` blocks of 64
// tokens.
int64_t FastWorkspace(const SplitPlan& plan, int32_t count);
int64_t SlowWorkspace(const AttentionView& layer, const SplitPlan& plan, int32_t count,
                      int64_t blocks);

// W of every sequence, then attention's partial results; LaunchDecodeMerge ends it.
void LaunchSplitAbsorb(const SplitArguments& arguments, cudaStream_t stream);
void LaunchSplitDecode(const SplitArguments& arguments, cudaStream_t stream);
template <class Form, int kBits>
void LaunchSplitDecodeOf(const SplitArguments& arguments, cudaStream_t stream);

}  // namespace palu::cuda
