// What every benchmark needs: filled buffers, and counters that print the work done per second and
// its fraction of the machine's limit.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "ops/convert.h"
#include "peak.h"
#include "tensor/tensor.h"

namespace palu::bench {

// Small values of both signs; never subnormal in any stored type.
inline Matrix<float> Floats(int64_t rows, int64_t cols) {
  Matrix<float> matrix(rows, cols);
  for (int64_t i = 0; i < matrix.size(); ++i) {
    matrix.data()[i] = static_cast<float>((i * 37) % 255 - 127) / 64.0f + 0.005f;
  }
  return matrix;
}

inline OwnedTensor Stored(DType dtype, int64_t rows, int64_t cols) {
  OwnedTensor tensor(dtype, {rows, cols});
  const Matrix<float> row = Floats(1, cols);
  for (int64_t i = 0; i < rows; ++i) {
    FromFloat(row.data(), cols, dtype,
              tensor.data() + i * cols * static_cast<int64_t>(SizeOf(dtype)));
  }
  return tensor;
}

// Runs the loop of a benchmark and keeps its shortest iteration: on a shared machine the mean
// measures the neighbours.
template <class Body>
double BestIteration(benchmark::State& state, const Body& body) {
  double best = 1e30;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  state.counters["best_us"] = best * 1e6;
  return best;
}

inline void Report(benchmark::State& state, double seconds, double bytes, double flops) {
  state.counters["GB/s"] = bytes / seconds / 1e9;
  state.counters["of_read"] = bytes / seconds / ReadBandwidth();
  state.counters["Gflop/s"] = flops / seconds / 1e9;
  state.counters["of_gemm"] = flops / seconds / GemmFlops();
}

}  // namespace palu::bench
