// What an op needs to run, passed explicitly to every op: where, on which threads, and whether the
// result of a row may depend on the rows beside it.
#pragma once

#include "base/thread_pool.h"
#include "tensor/device.h"

namespace palu {

struct Exec {
  ThreadPool& pool;
  Device device = kCpu;
  // Bit-for-bit batch invariance: a row's result is the same alone and in any batch. Slower.
  bool deterministic = false;
};

}  // namespace palu
