// Scores of the frequency split, one query per KV head: all rows W are the queries', and their
// products with a key need but to be summed with the waves.
#pragma once

#include "ops/cuda/split_softmax.cuh"
#include "ops/cuda/split_waves.cuh"

namespace palu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// By a warpgroup, over its tiles of a share in order. A thread ends with the scores of head c at
// its two tokens.
template <int kBits, int kChunks, bool kRotary>
class AbsorbedScores {
 public:
  static constexpr SplitForm kForm = Absorbed::kForm;

  __device__ AbsorbedScores(const SplitArguments& args, const std::byte* shared, int row, int lane)
      : c_(lane % 4),
        fast_(SharedAddress(shared) + static_cast<uint32_t>(args.plan.shared.fast),
              kForm.fast_rows()),
        scales_(reinterpret_cast<const FastScales*>(shared + args.plan.shared.fast +
                                                    args.plan.fast_row_bytes())),
        turns_(TurnsPlace<Absorbed>(args, shared)),
        phi_(static_cast<uint32_t>(args.plan.shared.phi + (row * kForm.terms + 2 * c_) * 4)),
        slow_scales_(static_cast<uint32_t>(args.plan.slow_row_bytes() + 2 * c_ * 4)) {}

  // position: of the first tile's `row`.
  __device__ void Start(const RopeView& rope, int64_t position, SplitBarriers& bars) {
    bars.fast.Wait(0);
    waves_.Start(rope, position, c_, [&](int pair) { return scales_->pairs[pair]; });
    head_scale_ = scales_->heads[c_];
  }

  __device__ void Score(uint32_t key_page, uint32_t slow_rows, const KeyPlaces<kBits>& keys,
                        const uint32_t (&offsets)[2], const float (&key_scales)[2],
                        float (&scores)[2][1]) const {
    constexpr int kFast = 2 * kForm.pairs;
    const OperandB slow_operand(slow_rows, kForm.slow_rows());
    KeyOperands<kBits, kChunks> operands;
    operands.Load(key_page, keys, c_, offsets);
    // Products of a head are under way while those before become parts of scores.
    RowSums<kBits, kForm.slow_rows()> slow;
    RowSums<kBits, kFast> fast[2];
    float parts[kForm.heads][2];
    operands.Multiply(slow_operand, kForm.slow_rows(), 0, slow);
    operands.template Multiply<kTaken[0]>(fast_, kForm.fast_rows(), 0, fast[0]);
    WgmmaWait<1>();
    SumSlow(slow, key_page + phi_, slow_rows + slow_scales_, parts);
#pragma unroll
    for (int head = 0; head < kForm.heads; ++head) {
      const int next = head + 1;
      if (next < kForm.heads / 2) {
        operands.template Multiply<kTaken[0]>(fast_, kForm.fast_rows(), next * kFast,
                                              fast[next % 2]);
        WgmmaWait<1>();
      } else if (next < kForm.heads) {
        operands.template Multiply<kTaken[1]>(fast_, kForm.fast_rows(), next * kFast,
                                              fast[next % 2]);
        WgmmaWait<1>();
      } else {
        WgmmaWait<0>();
      }
      SumFast(fast[head % 2], parts[head]);
    }
    JoinLanes(parts, scores);
#pragma unroll
    for (int r = 0; r < 2; ++r) scores[r][0] *= key_scales[r] * head_scale_;
  }

  __device__ void Advance() { waves_.Advance(turns_, c_); }

 private:
  static constexpr int kAllSteps = KeyOperands<kBits, kChunks>::kSteps;
  static constexpr int kTaken[2] = {kRotary ? RotarySteps(kForm, kBits, 0) : kAllSteps,
                                    kRotary ? RotarySteps(kForm, kBits, 1) : kAllSteps};

  // A lane's parts of scores from slow rows: phi and slow_scales are shared addresses of its two
  // terms, of its first token and of head 0.
  __device__ static void SumSlow(const RowSums<kBits, kForm.slow_rows()>& sums, uint32_t phi,
                                 uint32_t slow_scales, float (&parts)[kForm.heads][2]) {
    const float2 phi0 = LoadFloat2(phi), phi1 = LoadFloat2(phi + 8 * kForm.terms * 4);
#pragma unroll
    for (int h = 0; h < kForm.heads; ++h) {
      const float2 scale = LoadFloat2(slow_scales + static_cast<uint32_t>(h * kForm.terms * 4));
      const auto* slow = sums.of + h * 4;
      parts[h][0] = phi0.x * scale.x * static_cast<float>(slow[0]) +
                    phi0.y * scale.y * static_cast<float>(slow[1]);
      parts[h][1] = phi1.x * scale.x * static_cast<float>(slow[2]) +
                    phi1.y * scale.y * static_cast<float>(slow[3]);
    }
  }
  // Adds a head's from fast rows.
  __device__ void SumFast(const RowSums<kBits, 2 * kForm.pairs>& sums, float (&part)[2]) const {
    float sines[2] = {0, 0};  // chains of their own
#pragma unroll
    for (int k = 0; k < Waves<kForm.pairs>::kOwn; ++k) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        part[r] += waves_.at[k][r].x * static_cast<float>(sums.of[4 * k + 2 * r]);
        sines[r] += waves_.at[k][r].y * static_cast<float>(sums.of[4 * k + 2 * r + 1]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) part[r] += sines[r];
  }

  // Four lanes hold parts of four heads; each ends with one head.
  __device__ void JoinLanes(const float (&parts)[kForm.heads][2], float (&scores)[2][1]) const {
    const bool upper = c_ & 2, odd = c_ & 1;
    float pair[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float keep = upper ? parts[h + 2][r] : parts[h][r];
        const float send = upper ? parts[h][r] : parts[h + 2][r];
        pair[h][r] = keep + __shfl_xor_sync(~0u, send, 2);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float keep = odd ? pair[1][r] : pair[0][r], send = odd ? pair[0][r] : pair[1][r];
      scores[r][0] = keep + __shfl_xor_sync(~0u, send, 1);
    }
  }

  int c_;
  OperandB fast_;
  const FastScales* scales_;
  uint32_t turns_, phi_, slow_scales_;
  float head_scale_ = 0;
  Waves<kForm.pairs> waves_;
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace palu::cuda
