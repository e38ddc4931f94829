// Where memory lives and work runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace palu {

struct Device {
  enum class Kind { kCpu, kCuda } kind = Kind::kCpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{};

struct CudaDeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
};

// Whether this build has the CUDA backend (cmake --preset cuda).
bool HasCudaBackend();

// The CUDA devices that the driver shows; none where the machine has no driver or no device. Throws
// Error in a build without the backend.
std::vector<CudaDeviceInfo> CudaDevices();

}  // namespace palu
