// Launches that overlap the end of the kernel before (programmatic dependent launch, sm_90).
#pragma once

#include <cuda_runtime.h>

#include "tensor/cuda/check.h"

namespace palu::cuda {

// The kernel may start while the one before in the stream still runs: whatever it reads of that
// one's results, or overwrites of its inputs, comes after WaitForPreviousKernel. Older devices
// launch in order.
template <class... Parameters, class... Arguments>
void LaunchEarly(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                 cudaStream_t stream, const Arguments&... arguments) {
  int device = 0, major = 0;
  Check(cudaGetDevice(&device), "asking for the device");
  Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "reading device properties");
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = major >= 9 ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, arguments...), "launching a kernel");
}

}  // namespace palu::cuda
