// Where memory lives and work runs. The CPU is the only backend in this build.
#pragma once

namespace palu {

struct Device {
  enum class Kind { kCpu, kCuda } kind = Kind::kCpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{};

}  // namespace palu
