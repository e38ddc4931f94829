#include "ops/cuda/split_decode.cuh"

template void palu::cuda::LaunchSplitDecodeOf<palu::cuda::Absorbed, 2>(const SplitArguments&,
                                                                       cudaStream_t);
