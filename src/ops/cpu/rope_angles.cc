#include <cmath>
#include <numbers>

#include "ops/rope.h"

namespace palu {
namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, and between the two the
// frequency is blended (Hugging Face's _compute_llama3_parameters).
double ScaleLlama3(double frequency, const RopeConfig& config) {
  const double original = static_cast<double>(config.original_max_position);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < original / config.high_freq_factor) return frequency;
  if (wavelength > original / config.low_freq_factor) return frequency / config.factor;
  const double smooth = (original / wavelength - config.low_freq_factor) /
                        (config.high_freq_factor - config.low_freq_factor);
  return (1 - smooth) * frequency / config.factor + smooth * frequency;
}

}  // namespace

std::vector<double> InverseFrequencies(const RopeConfig& config, int64_t head_dim) {
  assert(head_dim % 2 == 0);
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    const double frequency = std::pow(config.theta, -exponent);
    switch (config.scaling) {
      case RopeScaling::kNone:
        frequencies[i] = frequency;
        break;
      case RopeScaling::kLinear:
        frequencies[i] = frequency / config.factor;
        break;
      case RopeScaling::kLlama3:
        frequencies[i] = ScaleLlama3(frequency, config);
        break;
    }
  }
  return frequencies;
}

void FillCosSin(std::span<const int64_t> positions, std::span<const double> inverse_frequencies,
                MatrixView<float> cos, MatrixView<float> sin) {
  const int64_t half = static_cast<int64_t>(inverse_frequencies.size());
  assert(cos.rows == static_cast<int64_t>(positions.size()) && cos.cols == half);
  assert(sin.rows == cos.rows && sin.cols == half);
  for (int64_t i = 0; i < cos.rows; ++i) {
    const double position = static_cast<double>(positions[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < half; ++j) {
      const double angle = position * inverse_frequencies[static_cast<size_t>(j)];
      cos(i, j) = static_cast<float>(std::cos(angle));
      sin(i, j) = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace palu
