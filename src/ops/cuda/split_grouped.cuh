// Scores of the frequency split, several queries per KV head: the fast pairs of keys are
// rebuilt, rotated in registers and become, rounded to fp16, operands of a product with the
// queries. The slow rows' products, times their waves, are summed by the same instruction.
#pragma once

#include <cstddef>

#include "ops/cuda/split_softmax.cuh"
#include "ops/cuda/split_waves.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ inline uint32_t Halves(float low, float high) {
  const __half2 x = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(x);
}
__device__ inline void Clear(float (&scores)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
}
__device__ inline Fragment LoadFragment(uint32_t shared) {
  Fragment f;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];\n" : "=r"(f.x), "=r"(f.y) : "r"(shared));
  return f;
}

// What the key bias adds to scores over biases[slot], as scores. `fragments`: shared address of
// this lane's first Fragment of GroupedQueries::bias; `slow`: of its first word of
// GroupedSlowScales::bias; `phi`: of the waves of the thread's first token.
template <int kPairs, int kTerms>
__device__ inline void ScoreBias(const Waves<kPairs>& waves, uint32_t phi, uint32_t fragments,
                                 uint32_t slow, int c, float (&scores)[2][4]) {
  static_assert(kPairs / 4 == 2 * kBiasSteps - 1 && kTerms == 6);
  constexpr uint32_t kPart = 2 * kBiasSteps * 32 * sizeof(Fragment), kSlowPart = 2 * 32 * 4;
  Clear(scores);
#pragma unroll
  for (int s = 0; s < kBiasSteps; ++s) {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int k = 2 * s + i / 2, r = i % 2;
      float2 x = {0, 0};
      if (k < kPairs / 4) x = waves.at[k < kPairs / 4 ? k : 0][r];
      if (k == kPairs / 4 && c < kTerms / 2) {
        x = LoadFloat2(phi + static_cast<uint32_t>((8 * r * kTerms + 2 * c) * 4));
      }
      const __half2 rounded = __floats2half2_rn(x.x, x.y);
      const float2 back = __half22float2(rounded);
      high[i] = reinterpret_cast<const uint32_t&>(rounded);
      low[i] = Halves(x.x - back.x, x.y - back.y);
    }
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const uint32_t at = fragments + static_cast<uint32_t>((t * kBiasSteps + s) * 32 * 8);
      Fragment b = LoadFragment(at), b_low = LoadFragment(at + kPart);
      if (s == kBiasSteps - 1) {
        b.y = Load4(slow + static_cast<uint32_t>(t * 32 * 4));
        b_low.y = Load4(slow + static_cast<uint32_t>(t * 32 * 4) + kSlowPart);
      }
      Mma<__half>(scores[t], high, b.x, b.y);
      Mma<__half>(scores[t], low, b.x, b.y);
      Mma<__half>(scores[t], high, b_low.x, b_low.y);
    }
  }
}

// By a warpgroup, over its tiles of a share in order. A thread ends with the scores of its own four
// slots at its two tokens.
template <int kHeads, int kBits, int kChunks, bool kRotary>
class GroupedScores {
 public:
  using Form = Grouped<kHeads>;
  static constexpr SplitForm kForm = Form::kForm;

  __device__ GroupedScores(const SplitArguments& args, const std::byte* shared, int row, int lane)
      : c_(lane % 4),
        fast_(SharedAddress(shared) + static_cast<uint32_t>(args.plan.shared.fast),
              kForm.fast_rows()),
        queries_(SharedAddress(shared) +
                 static_cast<uint32_t>(args.plan.shared.fast + args.plan.fast_row_bytes()) +
                 static_cast<uint32_t>(lane) * 8),
        head_scales_(queries_ + static_cast<uint32_t>(offsetof(GroupedQueries<kHeads>, heads)) +
                     static_cast<uint32_t>(2 * c_ * 4 - lane * 8)),
        turns_(TurnsPlace<Form>(args, shared)),
        phi_(static_cast<uint32_t>(args.plan.shared.phi + row * kForm.terms * 4)),
        slow_scales_(static_cast<uint32_t>(args.plan.slow_row_bytes() + lane * 8)),
        slow_bias_(static_cast<uint32_t>(args.plan.slow_row_bytes() +
                                         static_cast<int>(offsetof(GroupedSlowScales, bias)) +
                                         lane * 4)),
        has_bias_(args.decode.layer.k.bias != nullptr) {}

  // position: of the first tile's `row`.
  __device__ void Start(const RopeView& rope, int64_t position, SplitBarriers& bars) {
    waves_.Start(rope, position, c_, [](int) { return kKeyDown; });
    bars.fast.Wait(0);
  }

  __device__ void Score(uint32_t key_page, uint32_t slow_rows, const KeyPlaces<kBits>& keys,
                        const uint32_t (&offsets)[2], const float (&key_scales)[2],
                        float (&scores)[2][4]) const {
    float products[2][4];
    Clear(products);
    KeyOperands<kBits, kChunks> operands;
    operands.Load(key_page, keys, c_, offsets);
    const OperandB slow_operand(slow_rows, kForm.slow_rows());
    // Products are under way while those before meet the queries: fast rows of two KV heads, slow
    // rows of eight slots.
    RowSums<kBits, kFastPiece> fast;
    RowSums<kBits, kSlowPiece> slow;
    operands.template Multiply<kTaken[0]>(fast_, kForm.fast_rows(), 0, fast);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      operands.Multiply(slow_operand, kForm.slow_rows(), t * kSlowPiece, slow);
      if (t < kFastPieces) {
        WgmmaWait<1>();
        MeetFast(fast, t, products);
      }
      if (t + 1 < kFastPieces) {
        operands.template Multiply<kTaken[1]>(fast_, kForm.fast_rows(), kFastPiece, fast);
        WgmmaWait<1>();
      } else {
        WgmmaWait<0>();
      }
      MeetSlow(slow, key_page + phi_, slow_rows + slow_scales_, t, products[t]);
    }
    Add<false>(products, head_scales_, key_scales, scores);
    if (has_bias_) {
      ScoreBias<kForm.pairs, kForm.terms>(
          waves_, key_page + phi_,
          queries_ + static_cast<uint32_t>(offsetof(GroupedQueries<kHeads>, bias)),
          slow_rows + slow_bias_, c_, products);
      constexpr float kOne[2] = {1, 1};
      Add<true>(products, head_scales_ + kForm.slots() * 4, kOne, scores);
    }
  }

  __device__ void Advance() { waves_.Advance(turns_, c_); }

 private:
  // Products in the order of mma sums, times scales of slots (shared address of those of slots 2 c
  // and 2 c + 1) and tokens, into scores [token][own slot], or added to them.
  template <bool kAdd>
  __device__ static void Add(const float (&products)[2][4], uint32_t slot_scales,
                             const float (&token_scales)[2], float (&scores)[2][4]) {
    const float2 slots[2] = {LoadFloat2(slot_scales), LoadFloat2(slot_scales + 32)};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float scale = token_scales[i % 4 / 2] * (i % 2 == 0 ? slots[i / 4].x : slots[i / 4].y);
      float& score = scores[i % 4 / 2][i / 4 * 2 + i % 2];
      score = products[i / 4][i % 4] * scale + (kAdd ? score : 0.0f);
    }
  }

  static constexpr int kFastPiece = 4 * kForm.pairs, kFastPieces = kForm.fast_rows() / kFastPiece;
  static constexpr int kSlowPiece = kForm.slow_rows() / 2;
  // A unit of two KV heads may be a page's last.
  static constexpr int kAllSteps = KeyOperands<kBits, kChunks>::kSteps;
  static constexpr int kTaken[2] = {
      kRotary ? RotarySteps(kForm, kBits, kFastPieces == 1 ? 1 : 0) : kAllSteps,
      kRotary ? RotarySteps(kForm, kBits, 1) : kAllSteps};

  // Adds to products of slots at a warp's 16 tokens, before the scales of tokens and slots, those
  // of a piece's fast rows, rotated; products[t] as a product's result over slots 8 t and on.
  __device__ void MeetFast(const RowSums<kBits, kFastPiece>& sums, int piece,
                           float (&products)[2][4]) const {
    constexpr int kTilesOfHead = kForm.pairs / 4, kSteps = kFastSteps<kHeads>;
    static_assert(kFastPiece % (8 * kTilesOfHead) == 0);
#pragma unroll
    for (int s = 0; s < kFastPiece / 16; ++s) {
      uint32_t a[4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int tile = 2 * s + j;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float x = static_cast<float>(sums.of[4 * tile + 2 * r]);
          const float y = static_cast<float>(sums.of[4 * tile + 2 * r + 1]);
          const float2 w = waves_.at[tile % kTilesOfHead][r];
          a[2 * j + r] = Halves(x * w.x - y * w.y, x * w.y + y * w.x);
        }
      }
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int at = piece * (kFastPiece / 16) + s - FirstFastStep<kHeads>(t);
        if (at < 0 || at >= kSteps) continue;
        const Fragment b =
            LoadFragment(queries_ + static_cast<uint32_t>((t * kSteps + at) * kFragments));
        Mma<__half>(products[t], a, b.x, b.y);
      }
    }
  }
  // The same of eight slots' slow rows; `phi`: shared address of the waves of the thread's first
  // token, `scales`: of this lane's first fragment.
  __device__ void MeetSlow(const RowSums<kBits, kSlowPiece>& sums, uint32_t phi, uint32_t scales,
                           int piece, float (&products)[4]) const {
    // Columns 8 i + 2 c and the next of tile i are terms 2 u, 2 u + 1 of a slot, u = (i + c) mod 3.
    constexpr int kTerms = kForm.terms;
    static_assert(kTerms == 6 && kSlowPiece == 48);
    float2 wave[3][2];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const int u = (k + c_) % 3;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        wave[k][r] = LoadFloat2(phi + static_cast<uint32_t>((8 * r * kTerms + 2 * u) * 4));
      }
    }
#pragma unroll
    for (int s = 0; s < kSlowSteps; ++s) {
      uint32_t a[4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int tile = 2 * s + j;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float2 w = wave[tile % 3][r];
          a[2 * j + r] = Halves(w.x * static_cast<float>(sums.of[4 * tile + 2 * r]),
                                w.y * static_cast<float>(sums.of[4 * tile + 2 * r + 1]));
        }
      }
      const Fragment b =
          LoadFragment(scales + static_cast<uint32_t>((piece * kSlowSteps + s) * kFragments));
      Mma<__half>(products, a, b.x, b.y);
    }
  }

  static constexpr int kFragments = 32 * sizeof(Fragment);
  int c_;
  OperandB fast_;
  uint32_t queries_, head_scales_, turns_, phi_, slow_scales_, slow_bias_;
  bool has_bias_;
  Waves<kForm.pairs> waves_;
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
