// How far a score may move when the slow pairs of a head are waves (ops/lane_keys.h), in float64.
#pragma once

#include <cmath>
#include <complex>
#include <span>
#include <vector>

#include "ops/frequency_split.h"
#include "ops/int8_up.h"
#include "ops/paged_kv.h"

namespace palu::testing {

// One query [d] and run of tokens, of which the middle lies at position `middle`.
class SplitBound {
 public:
  SplitBound(const Int8Up& up, const FrequencySplit& split, std::span<const double> frequencies,
             const float* query, int64_t middle)
      : up_(up), split_(split), query_(query), half_(up.head_dim() / 2) {
    for (int64_t j = 0; j < split.terms; ++j) {
      std::vector<double> w(static_cast<size_t>(up.width()));
      double largest_x = 0, largest_w = 0;
      for (int64_t f = 0; f < split.slow_pairs(); ++f) {
        const int64_t pair = split.exact_pairs + f;
        const std::complex<double> z =
            split.Coefficients(j)[f] * std::conj(Query(pair)) *
            std::polar(1.0, frequencies[static_cast<size_t>(pair)] * static_cast<double>(middle));
        const double x[2] = {z.real() * double{up.scale(pair)},
                             -z.imag() * double{up.scale(pair + half_)}};
        for (int64_t k = 0; k < 2; ++k) {
          largest_x = std::max(largest_x, std::abs(x[k]));
          for (int64_t r = 0; r < up.width(); ++r) {
            w[static_cast<size_t>(r)] += x[k] * up.At(pair + k * half_, r);
          }
        }
      }
      for (const double entry : w) largest_w = std::max(largest_w, std::abs(entry));
      x_.push_back(largest_x);
      w_.push_back(largest_w);
    }
  }

  // Of the wave approximation: max_error sum |q_f| |k_f|.
  double Waves(std::span<const double> latents) const {
    double sum = 0;
    for (int64_t f = split_.exact_pairs; f < half_; ++f) {
      sum += std::abs(Query(f)) * std::hypot(Key(f, latents), Key(f + half_, latents));
    }
    return split_.max_error * sum;
  }
  // Of rounding W and its coefficients, at most; `at`: the token's place in the run.
  double Rounding(std::span<const double> latents, int64_t at) const {
    double magnitudes = 0, keys = 0, sum = 0;
    for (const double h : latents) magnitudes += std::abs(h);
    for (int64_t f = split_.exact_pairs; f < half_; ++f) {
      for (const int64_t i : {f, f + half_}) {
        if (up_.scale(i) > 0) keys += std::abs(Key(i, latents)) / double{up_.scale(i)};
      }
    }
    for (int64_t j = 0; j < split_.terms; ++j) {
      const auto i = static_cast<size_t>(j);
      const double x = x_[i] / 65278;
      // W is rounded after its coefficients were; its largest entry may have moved with them.
      const double w = (w_[i] + x * 127 * static_cast<double>(2 * split_.slow_pairs())) / 254;
      sum += std::abs(split_.Wave(j)[at]) * (w * magnitudes + x * keys);
    }
    return sum;
  }
  // Mean square of rounding W: its entries' errors are independent and uniform over a step.
  double MeanSquare(std::span<const double> latents, int64_t at) const {
    double squares = 0, sum = 0;
    for (const double h : latents) squares += h * h;
    for (int64_t j = 0; j < split_.terms; ++j) {
      sum += std::pow(split_.Wave(j)[at] * w_[static_cast<size_t>(j)] / 127, 2) / 12 * squares;
    }
    return sum;
  }

 private:
  std::complex<double> Query(int64_t f) const { return {query_[f], query_[f + half_]}; }
  double Key(int64_t f, std::span<const double> latents) const {
    double sum = 0;
    for (int64_t r = 0; r < up_.width(); ++r) sum += up_.At(f, r) * latents[static_cast<size_t>(r)];
    return sum * double{up_.scale(f)};
  }

  const Int8Up& up_;
  const FrequencySplit& split_;
  const float* query_;
  int64_t half_;
  std::vector<double> x_, w_;  // largest entries of the coefficients and of W, per term
};

// The same for a page in tiers, whose U and W are rounded tier by tier.
class TierBound {
 public:
  // up: U of the head [d][width].
  TierBound(std::span<const std::vector<double>> up, std::span<const PageTier> tiers,
            const FrequencySplit& split, std::span<const double> frequencies, const float* query,
            int64_t middle)
      : up_(up), tiers_(tiers), split_(split), query_(query), half_(std::ssize(up) / 2) {
    for (int64_t j = 0; j < split.terms; ++j) {
      std::vector<double>& w = w_.emplace_back(up[0].size());
      for (int64_t f = split.exact_pairs; f < half_; ++f) {
        const std::complex<double> z =
            split.Coefficients(j)[f - split.exact_pairs] * std::conj(Query(f)) *
            std::polar(1.0, frequencies[static_cast<size_t>(f)] * static_cast<double>(middle));
        for (size_t r = 0; r < w.size(); ++r) {
          w[r] += z.real() * Up(f)[r] - z.imag() * Up(f + half_)[r];
        }
      }
    }
  }

  // Of the first `pairs` pairs, rebuilt.
  double Rebuilt(int64_t pairs, std::span<const double> latents) const {
    double sum = 0;
    for (int64_t f = 0; f < pairs; ++f) {
      sum += std::abs(Query(f)) * std::hypot(Moved(Up(f), latents), Moved(Up(f + half_), latents));
    }
    return sum;
  }
  // Of the waves at the run's token `at`.
  double Waves(std::span<const double> latents, int64_t at) const {
    double sum = 0;
    for (int64_t j = 0; j < split_.terms; ++j) {
      sum += std::abs(split_.Wave(j)[at]) * Moved(w_[static_cast<size_t>(j)], latents);
    }
    return sum;
  }

 private:
  std::complex<double> Query(int64_t f) const { return {query_[f], query_[f + half_]}; }
  const std::vector<double>& Up(int64_t f) const { return up_[static_cast<size_t>(f)]; }
  double Moved(std::span<const double> row, std::span<const double> latents) const {
    double sum = 0;
    for (const PageTier& tier : tiers_) {
      const auto column = static_cast<size_t>(tier.column), width = static_cast<size_t>(tier.width);
      double largest = 0, magnitudes = 0;
      for (const double x : row.subspan(column, width)) largest = std::max(largest, std::abs(x));
      for (const double h : latents.subspan(column, width)) magnitudes += std::abs(h);
      sum += largest / (tier.quantization.bits == 8 ? 65278 : 254) * magnitudes;
    }
    return sum;
  }

  std::span<const std::vector<double>> up_;
  std::span<const PageTier> tiers_;
  const FrequencySplit& split_;
  const float* query_;
  int64_t half_;
  std::vector<std::vector<double>> w_;
};

}  // namespace palu::testing
