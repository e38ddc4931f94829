#include "ops/cuda/split_decode.cuh"

template void palu::cuda::LaunchSplitDecodeOf<palu::cuda::Grouped<2>, 3>(const SplitArguments&,
                                                                         cudaStream_t);
