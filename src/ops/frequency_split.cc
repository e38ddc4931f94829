#include "ops/frequency_split.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "linalg/decompositions.h"

namespace palu {
namespace {

using Complex = std::complex<double>;

constexpr std::array<int64_t, 3> kBlocks = {64, 128, 256};
constexpr int64_t kPairStep = 4;
constexpr double kLeastTolerance = 1e-9;

// The cosines or sines of the slow pairs at the positions after the block's middle, and their
// singular vectors. The positions before it follow by symmetry.
class Parity {
 public:
  Parity(std::span<const double> slow, int64_t half_tokens, double (*wave)(double))
      : rest_(std::ssize(slow), half_tokens) {
    for (int64_t f = 0; f < rest_.rows(); ++f) {
      for (int64_t t = 0; t < half_tokens; ++t) {
        rest_(f, t) = wave(slow[static_cast<size_t>(f)] * (static_cast<double>(t) + 0.5));
      }
    }
    Matrix<double> copy(rest_.rows(), rest_.cols());
    std::copy_n(rest_.data(), rest_.size(), copy.data());
    svd_ = ThinSvd(copy);
  }

  int64_t size() const { return std::ssize(svd_.singular); }
  double singular(int64_t i) const { return svd_.singular[static_cast<size_t>(i)]; }
  const double* vector(int64_t i) const { return svd_.vt.Row(i); }  // [half_tokens], norm 1

  // What the vectors removed so far leave of pair f at position t after the middle.
  double rest(int64_t f, int64_t t) const { return rest_(f, t); }

  // Removes vector i from every wave; returns how much of it each held, [slow].
  std::vector<double> Remove(int64_t i) {
    std::vector<double> held(static_cast<size_t>(rest_.rows()));
    const double* v = vector(i);
    for (int64_t f = 0; f < rest_.rows(); ++f) {
      double* row = rest_.Row(f);
      double product = 0;
      for (int64_t t = 0; t < rest_.cols(); ++t) product += row[t] * v[t];
      for (int64_t t = 0; t < rest_.cols(); ++t) row[t] -= product * v[t];
      held[static_cast<size_t>(f)] = product;
    }
    return held;
  }

 private:
  Matrix<double> rest_;  // [slow, half_tokens]
  Svd svd_;
};

// Takes waves in the order of their singular values, the strongest first.
class Approximation {
 public:
  Approximation(std::span<const double> frequencies, int64_t block_tokens, int64_t exact_pairs)
      : slow_(frequencies.subspan(static_cast<size_t>(exact_pairs))),
        half_(block_tokens / 2),
        even_(slow_, half_, std::cos),
        odd_(slow_, half_, std::sin) {
    split_.block_tokens = block_tokens;
    split_.exact_pairs = exact_pairs;
  }

  void AddWave() {
    const bool odd =
        next_even_ == even_.size() ||
        (next_odd_ < odd_.size() && odd_.singular(next_odd_) > even_.singular(next_even_));
    Parity& parity = odd ? odd_ : even_;
    const int64_t i = odd ? next_odd_++ : next_even_++;
    // Both halves of the block hold the vector, so a norm of sqrt(2) becomes one of sqrt(T).
    const double scale = std::sqrt(static_cast<double>(half_));
    const double sign = odd ? -1 : 1;
    for (int64_t t = half_ - 1; t >= 0; --t) {
      split_.basis.push_back(sign * scale * parity.vector(i)[t]);
    }
    for (int64_t t = 0; t < half_; ++t) split_.basis.push_back(scale * parity.vector(i)[t]);
    const std::vector<double> held = parity.Remove(i);
    for (size_t f = 0; f < held.size(); ++f) {
      const Complex in_the_middle = odd ? Complex(0, held[f]) : Complex(held[f], 0);
      split_.coefficients.push_back(in_the_middle / scale * std::polar(1.0, -slow_[f] / 2));
    }
    ++split_.terms;
  }

  double MaxError() const {
    double max = 0;
    ForErrors([&](double squared) { max = std::max(max, squared); });
    return std::sqrt(max);
  }

  FrequencySplit Finish() && {
    double sum = 0;
    ForErrors([&](double squared) { sum += squared; });
    split_.rms_error = std::sqrt(sum / static_cast<double>(std::ssize(slow_) * half_));
    split_.max_error = MaxError();
    return std::move(split_);
  }

 private:
  template <class Visit>
  void ForErrors(const Visit& visit) const {
    for (int64_t f = 0; f < std::ssize(slow_); ++f) {
      for (int64_t t = 0; t < half_; ++t) {
        visit(even_.rest(f, t) * even_.rest(f, t) + odd_.rest(f, t) * odd_.rest(f, t));
      }
    }
  }

  std::span<const double> slow_;
  int64_t half_;
  Parity even_, odd_;
  int64_t next_even_ = 0, next_odd_ = 0;
  FrequencySplit split_;
};

void CheckSizes(std::span<const double> frequencies, int64_t block_tokens, int64_t exact_pairs) {
  Require(block_tokens >= 2 && block_tokens % 2 == 0,
          "frequency split: expected an even number of tokens in a block, found {}", block_tokens);
  Require(exact_pairs >= 0 && exact_pairs < std::ssize(frequencies),
          "frequency split: expected 0 to {} exact pairs of {}, found {}",
          std::ssize(frequencies) - 1, frequencies.size(), exact_pairs);
}

void CheckTolerance(double tolerance) {
  Require(tolerance >= kLeastTolerance && tolerance < 1,
          "frequency split: expected a tolerance from {} to below 1, found {}", kLeastTolerance,
          tolerance);
}

int64_t RoundUp(int64_t rows, int64_t multiple) {
  return (rows + multiple - 1) / multiple * multiple;
}

}  // namespace

int64_t MostTerms(int64_t slow_pairs, int64_t block_tokens) {
  return 2 * std::min(slow_pairs, block_tokens / 2);
}

FrequencySplit MakeFrequencySplit(std::span<const double> frequencies, int64_t block_tokens,
                                  int64_t exact_pairs, int64_t terms) {
  CheckSizes(frequencies, block_tokens, exact_pairs);
  const int64_t most = MostTerms(std::ssize(frequencies) - exact_pairs, block_tokens);
  Require(terms >= 1 && terms <= most,
          "frequency split: expected 1 to {} terms for {} slow pairs in blocks of {} tokens, "
          "found {}",
          most, std::ssize(frequencies) - exact_pairs, block_tokens, terms);
  Approximation waves(frequencies, block_tokens, exact_pairs);
  for (int64_t n = 0; n < terms; ++n) waves.AddWave();
  return std::move(waves).Finish();
}

FrequencySplit SplitWithin(std::span<const double> frequencies, int64_t block_tokens,
                           int64_t exact_pairs, double tolerance) {
  CheckSizes(frequencies, block_tokens, exact_pairs);
  CheckTolerance(tolerance);
  Approximation waves(frequencies, block_tokens, exact_pairs);
  do {
    waves.AddWave();
  } while (waves.MaxError() > tolerance);
  return std::move(waves).Finish();
}

std::optional<FrequencySplit> FewestExactPairs(std::span<const double> frequencies,
                                               int64_t block_tokens, int64_t terms,
                                               double tolerance, int64_t multiple) {
  CheckTolerance(tolerance);
  const int64_t pairs = std::ssize(frequencies);
  for (int64_t exact = 0; exact < pairs; exact += multiple) {
    const int64_t n = std::min(terms, MostTerms(pairs - exact, block_tokens));
    FrequencySplit split = MakeFrequencySplit(frequencies, block_tokens, exact, n);
    if (split.max_error <= tolerance) return split;
  }
  return std::nullopt;
}

int64_t FastPairs(int64_t queries, int64_t head_dim) {
  return std::min<int64_t>(queries == 1 ? 24 : 20, 3 * head_dim / 8);
}

double SplitCost::Rows(int64_t exact_pairs, int64_t slow_pairs, int64_t terms,
                       double tokens) const {
  const int64_t w = queries * terms;
  return static_cast<double>(RoundUp(2 * exact_pairs + w, row_multiple)) +
         making * static_cast<double>(w * 2 * slow_pairs) / tokens;
}

double SplitCost::Rows(int64_t pairs) const {
  return static_cast<double>(RoundUp(2 * pairs, row_multiple));
}

bool SplitCost::Pays(const FrequencySplit& split, int64_t tokens) const {
  return Rows(split.exact_pairs, split.slow_pairs(), split.terms, static_cast<double>(tokens)) <
         Rows(split.exact_pairs + split.slow_pairs());
}

std::optional<FrequencySplit> ChooseFrequencySplit(std::span<const double> frequencies,
                                                   double tolerance, const SplitCost& cost) {
  CheckTolerance(tolerance);
  const int64_t pairs = std::ssize(frequencies);
  std::optional<FrequencySplit> best;
  double fewest = cost.Rows(pairs);
  for (const int64_t tokens : kBlocks) {
    for (int64_t exact = 0; exact < pairs; exact += kPairStep) {
      const double per_token = static_cast<double>(tokens);
      if (cost.Rows(exact, pairs - exact, 1, per_token) >= fewest) continue;  // at the very least
      FrequencySplit split = SplitWithin(frequencies, tokens, exact, tolerance);
      const double rows = cost.Rows(exact, pairs - exact, split.terms, per_token);
      if (rows >= fewest) continue;
      fewest = rows;
      best = std::move(split);
    }
  }
  return best;
}

}  // namespace palu
