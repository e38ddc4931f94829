// Rotary position embedding: base frequency and how contexts beyond training are reached.
#pragma once

#include <cstdint>

namespace palu {

enum class RopeScaling { kNone, kLinear, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;  // llama3 only, like the two below
  double high_freq_factor = 4.0;
  int64_t original_max_position = 8192;
};

}  // namespace palu
