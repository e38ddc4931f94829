#include "peak.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "linalg/gemm.h"
#include "tensor/tensor.h"

namespace palu::bench {
namespace {

// Slices are short beside the scheduler's time slice, so the best of many ran undisturbed; together
// they are far larger than any cache.
constexpr int64_t kSliceBytes = int64_t{32} << 20;
constexpr int64_t kSlices = 24;
constexpr int kRepeats = 100;

template <class Body>
double BestSeconds(const Body& body) {
  double best = 1e30;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body(i);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  return best;
}

// Eight independent sums, which the compiler turns into vectors.
uint64_t Sum(const uint64_t* data, int64_t count) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i + 8 <= count; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  uint64_t total = 0;
  for (uint64_t s : sums) total += s;
  return total;
}

double MeasureReadBandwidth() {
  AlignedBuffer<uint64_t> buffer(kSlices * kSliceBytes / 8);
  std::memset(buffer.data(), 1, kSlices * kSliceBytes);
  const int64_t parts = Pool().size() * int64_t{4};
  std::vector<uint64_t> sums(static_cast<size_t>(parts));
  const double seconds = BestSeconds([&](int repeat) {
    const uint64_t* slice = buffer.data() + repeat % kSlices * (kSliceBytes / 8);
    Pool().ParallelFor(parts, [&](int64_t part, int) {
      const int64_t count = kSliceBytes / 8 / parts;
      sums[static_cast<size_t>(part)] = Sum(slice + part * count, count);
    });
  });
  volatile uint64_t keep = sums[0];
  (void)keep;
  return static_cast<double>(kSliceBytes) / seconds;
}

double MeasureGemmFlops() {
  constexpr int64_t n = 512;
  const int64_t threads = Pool().size();
  std::vector<Matrix<float>> outputs;
  for (int64_t i = 0; i < threads; ++i) outputs.emplace_back(n, n);
  Matrix<float> a(n, n), b(n, n);
  a.Fill(0.5f);
  b.Fill(0.25f);
  const double seconds = BestSeconds([&](int) {
    Pool().ParallelFor(threads, [&](int64_t i, int) {
      Gemm(Trans::kNo, Trans::kYes, 1.0f, a, b, 0.0f, outputs[static_cast<size_t>(i)]);
    });
  });
  return 2.0 * static_cast<double>(n * n * n * threads) / seconds;
}

}  // namespace

ThreadPool& Pool() {
  static ThreadPool pool;
  return pool;
}

double ReadBandwidth() {
  static const double value = MeasureReadBandwidth();
  return value;
}

double GemmFlops() {
  static const double value = MeasureGemmFlops();
  return value;
}

}  // namespace palu::bench
