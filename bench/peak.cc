#include "peak.h"

#include "eval/bench/machine.h"

namespace palu::bench {

ThreadPool& Pool() {
  static ThreadPool pool;
  return pool;
}

double ReadBandwidth() {
  static const double value = MeasureReadBandwidth(Pool());
  return value;
}

double GemmFlops() {
  static const double value = MeasureGemmFlops(Pool());
  return value;
}

}  // namespace palu::bench
