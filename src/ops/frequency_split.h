// Slow rotary pairs as a few waves that all of them share (docs/kernels.md, frequency split).
//
// A score is Re sum_f conj(q_f) k_f e^{i theta_f p} over the rotary pairs f of a key k at position
// p. Over a block of T positions around p = p0 + tau, tau = -T/2 .. T/2 - 1, the slow pairs turn
// little, and
//   e^{i theta_f tau} ~= sum_{j < n} c_jf phi_j(tau)
// with real waves phi_j that do not depend on f. With b_f the rows of U of pair f (first member
// plus i times the second), latents h and rotated queries q,
//   sum_{slow f} Re conj(q_f) (b_f h) e^{i theta_f (p0 + tau)} ~= sum_j phi_j(tau) W_j h,
//   W_j = Re sum_{slow f} c_jf conj(q_f) e^{i theta_f p0} b_f:
// n rows per query and block take the place of the rows of U of all slow pairs.
//
// The waves are the leading singular vectors of the block's cosines and sines, c their least
// squares coefficients. About the block's middle, tau = -1/2, cosines are even and sines odd, so
// the two are decomposed apart; c holds the half step between the middle and p0.
#pragma once

#include <complex>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace palu {

struct FrequencySplit {
  int64_t block_tokens = 0;                        // T
  int64_t exact_pairs = 0;                         // the first pairs, rebuilt as they are
  int64_t terms = 0;                               // n
  std::vector<double> basis;                       // phi_j(tau) [terms, block_tokens]; rms 1 each
  std::vector<std::complex<double>> coefficients;  // c_jf [terms, slow_pairs]
  // |e^{i theta_f tau} - sum_j c_jf phi_j(tau)| over slow pairs and tau: largest, and rms. With
  // pairs of equal energy the rms error of a score is rms_error sqrt(slow pairs / pairs) of it.
  double max_error = 0, rms_error = 0;

  int64_t slow_pairs() const { return terms > 0 ? std::ssize(coefficients) / terms : 0; }
  const double* Wave(int64_t term) const { return basis.data() + term * block_tokens; }
  const std::complex<double>* Coefficients(int64_t term) const {
    return coefficients.data() + term * slow_pairs();
  }
};

// Largest error of a unit wave that keeps a score's rms error below that of rounding keys to
// bfloat16. Rounding to 8 significant bits moves an x = m 2^e by up to half a step of 2^(e - 7),
// uniformly: rms 2^(e - 7) / sqrt(12), relative to rms(m) 2^e with rms(m) <= sqrt(7 / 3), the value
// for mantissas spread evenly over [1, 2): 1.48e-3 at least. A sup error is above the rms error.
inline constexpr double kSplitTolerance = 1e-3;
// What may be asked for instead.
inline constexpr double kLeastSplitTolerance = 1e-6, kMostSplitTolerance = 0.1;

// Waves are no more than this: cosines and sines each span one per slow pair or two positions.
int64_t MostTerms(int64_t slow_pairs, int64_t block_tokens);

// frequencies: radians per position of each pair (InverseFrequencies, any scaling); it pays where
// they fall. block_tokens: even. Throws Error unless 0 <= exact_pairs < pairs and
// 1 <= terms <= MostTerms.
FrequencySplit MakeFrequencySplit(std::span<const double> frequencies, int64_t block_tokens,
                                  int64_t exact_pairs, int64_t terms);

// The split with the fewest terms whose max_error is at most the tolerance. Throws Error as above
// and for a tolerance outside [1e-9, 1): rounding in float64 forbids less.
FrequencySplit SplitWithin(std::span<const double> frequencies, int64_t block_tokens,
                           int64_t exact_pairs, double tolerance);

// The split with at most `terms` terms and the fewest exact pairs, a multiple of `multiple`,
// whose max_error is at most the tolerance; none when that would leave no slow pair.
std::optional<FrequencySplit> FewestExactPairs(std::span<const double> frequencies,
                                               int64_t block_tokens, int64_t terms,
                                               double tolerance, int64_t multiple = 4);

// Rotary pairs of a head that a GPU's kernel takes as fast ones (docs/kernels.md has the count),
// and the rotary basis with it, given the query heads that share a KV head.
int64_t FastPairs(int64_t queries, int64_t head_dim);

// What a key costs, counted in products with one row of U.
struct SplitCost {
  int64_t queries = 1;       // query rows that share a key: each has W of its own
  int64_t row_multiple = 1;  // a kernel takes rows in such numbers
  double making = 1;         // of a product that makes W, over one of a latent

  // 2 exact pairs + queries terms, rounded up, and W's queries terms 2 slow pairs / tokens, for
  // `tokens` keys that share a W.
  double Rows(int64_t exact_pairs, int64_t slow_pairs, int64_t terms, double tokens) const;
  // Of a key that is rebuilt whole.
  double Rows(int64_t pairs) const;
  // True when `tokens` keys of one block cost less split than rebuilt.
  bool Pays(const FrequencySplit& split, int64_t tokens) const;
};

// The cheapest split by that count within the tolerance, over blocks of 64, 128 and 256 tokens and
// exact pairs in fours; none when rebuilding whole keys costs no more.
std::optional<FrequencySplit> ChooseFrequencySplit(std::span<const double> frequencies,
                                                   double tolerance, const SplitCost& cost);

}  // namespace palu
