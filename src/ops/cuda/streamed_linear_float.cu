#include "ops/cuda/streamed_linear.cuh"

template void palu::cuda::LaunchStreamOfType<float>(int64_t, const StreamArguments&, cudaStream_t);
