// Random numbers that are the same on every platform: xoshiro256++ (Blackman and Vigna 2019) seeded
// through splitmix64. Only correctly rounded operations are used, so doubles agree bit for bit.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace palu {

// Advances `state` and returns the next splitmix64 output.
uint64_t SplitMix64(uint64_t& state);

class Rng {
 public:
  using State = std::array<uint64_t, 4>;

  // Distinct streams of one seed are independent: one per thread, layer or request.
  explicit Rng(uint64_t seed, uint64_t stream = 0);
  // Continues from a saved state, which must not be all zeros.
  explicit Rng(const State& state) : state_(state) {}

  uint64_t NextU64();
  uint64_t Below(uint64_t bound);  // uniform in [0, bound), without bias; bound > 0
  double Uniform();                // in [0, 1), a multiple of 2^-53
  double Normal();                 // mean 0, variance 1

  void FillUniform(std::span<float> out, float low, float high);  // in [low, high]
  void FillNormal(std::span<float> out, float stddev = 1.0f);

 private:
  State state_;
  double spare_ = 0;  // Normal() makes two at a time
  bool has_spare_ = false;
};

}  // namespace palu
