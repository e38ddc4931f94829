#include "ops/cuda/streamed_linear.cuh"

template void palu::cuda::LaunchStreamOfType<__half>(int64_t, const StreamArguments&, cudaStream_t);
