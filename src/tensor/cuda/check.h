#pragma once

#include <cuda_runtime.h>

#include "base/error.h"

namespace palu::cuda {

// Throws Error with the runtime's own words unless the call succeeded.
inline void Check(cudaError_t status, const char* what) {
  Require(status == cudaSuccess, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

}  // namespace palu::cuda
