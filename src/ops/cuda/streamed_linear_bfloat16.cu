#include "ops/cuda/streamed_linear.cuh"

template void palu::cuda::LaunchStreamOfType<__nv_bfloat16>(int64_t, const StreamArguments&,
                                                            cudaStream_t);
