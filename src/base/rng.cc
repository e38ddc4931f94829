#include "base/rng.h"

#include <bit>
#include <cassert>
#include <cmath>
#include <numbers>

namespace palu {
namespace {

// Natural logarithm of a positive normal number by the series of 2 atanh((m-1)/(m+1)). The C
// library's differs between platforms in the last bit; explicit fma leaves compilers no choice.
double PortableLog(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // [0.5, 1)
  if (m < 0.5 * std::numbers::sqrt2) {
    m *= 2;
    --exponent;
  }
  const double t = (m - 1) / (m + 1);  // |t| < 0.172: ten terms reach 2^-53
  const double square = t * t;
  double sum = 0;
  for (int k = 21; k >= 1; k -= 2) sum = std::fma(sum, square, 1.0 / k);
  return std::fma(exponent, std::numbers::ln2, 2 * t * sum);
}

}  // namespace

uint64_t SplitMix64(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

Rng::Rng(uint64_t seed, uint64_t stream) : state_{} {
  uint64_t mixed_stream = stream;
  uint64_t mixer = seed ^ (stream == 0 ? 0 : SplitMix64(mixed_stream));
  for (uint64_t& word : state_) word = SplitMix64(mixer);
}

uint64_t Rng::NextU64() {
  const uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
  const uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

uint64_t Rng::Below(uint64_t bound) {
  assert(bound > 0);
  const int unused_bits = std::countl_zero((bound - 1) | 1);
  for (;;) {  // fewer than two tries on average
    const uint64_t candidate = NextU64() >> unused_bits;
    if (candidate < bound) return candidate;
  }
}

double Rng::Uniform() { return static_cast<double>(NextU64() >> 11) * 0x1p-53; }

// Marsaglia's polar method.
double Rng::Normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  double u = 0, v = 0, norm = 0;
  do {
    u = std::fma(2.0, Uniform(), -1.0);
    v = std::fma(2.0, Uniform(), -1.0);
    norm = std::fma(u, u, v * v);
  } while (norm >= 1 || norm == 0);
  const double scale = std::sqrt(-2 * PortableLog(norm) / norm);
  spare_ = v * scale;
  has_spare_ = true;
  return u * scale;
}

void Rng::FillUniform(std::span<float> out, float low, float high) {
  const double width = double{high} - double{low};
  for (float& x : out) x = static_cast<float>(std::fma(Uniform(), width, double{low}));
}

void Rng::FillNormal(std::span<float> out, float stddev) {
  for (float& x : out) x = static_cast<float>(Normal() * double{stddev});
}

}  // namespace palu
