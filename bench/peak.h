// The limits that benchmarks are held against, measured once per process on this machine.
#pragma once

#include "base/thread_pool.h"

namespace palu::bench {

// The threads that benchmarks run on: all CPUs of this process.
ThreadPool& Pool();

// Of Pool(), as eval/bench/machine.h measures them.
double ReadBandwidth();
double GemmFlops();

}  // namespace palu::bench
