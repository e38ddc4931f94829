// ops/divergence.h on the device.
#pragma once

#include <cuda_runtime.h>

#include "ops/cuda/linear.h"
#include "ops/divergence.h"

namespace palu::cuda {

// results[i] = CompareRows(p row i, q row i, targets[i]): p and q [m, n] float, targets and results
// [m] in device memory, all targets tokens. Sums run in float64 and another order than the CPU's,
// the same in every run.
void CompareRows(const DeviceMatrix& p, const DeviceMatrix& q, const int32_t* targets,
                 RowDivergence* results, cudaStream_t stream);

}  // namespace palu::cuda
