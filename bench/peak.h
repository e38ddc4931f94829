// The limits that benchmarks are held against, measured once per process on this machine.
#pragma once

#include "base/thread_pool.h"

namespace palu::bench {

// The threads that benchmarks run on: all CPUs of this process.
ThreadPool& Pool();

// Bytes per second that Pool() reads from memory: each thread sums its own part of a buffer far
// larger than any cache.
double ReadBandwidth();

// Multiply-adds count two: operations per second of the library's float GEMM [512, 512, 512] on
// every thread of Pool() at once.
double GemmFlops();

}  // namespace palu::bench
