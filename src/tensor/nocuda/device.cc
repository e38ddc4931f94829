// What stands in for the CUDA backend in a build without it.
#include "tensor/device.h"

#include "base/error.h"

namespace palu {

bool HasCudaBackend() { return false; }

std::vector<CudaDeviceInfo> CudaDevices() {
  Fail("this build has no CUDA backend: configure it with cmake --preset cuda");
}

}  // namespace palu
