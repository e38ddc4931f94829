// Decode attention's inner loops on one thread, over a cache of pages too large for L2: 64 stored
// rows per call, `g` queries that share them.
#include "bench_data.h"
#include "ops/vector.h"

namespace palu::bench {
namespace {

constexpr int64_t kPageRows = 64;
constexpr int64_t kCacheBytes = int64_t{8} << 20;
constexpr int64_t kCalls = 16;  // per timing

struct Pages {
  Pages(DType type, int64_t row_width)
      : dtype(type),
        width(row_width),
        page_bytes(kPageRows * width * static_cast<int64_t>(SizeOf(type))),
        count(kCacheBytes / page_bytes),
        rows(Stored(dtype, count * kPageRows, width)) {}
  StoredRows Page(int64_t i) const { return {rows.data() + i * page_bytes, dtype, width}; }

  DType dtype;
  int64_t width, page_bytes, count;
  OwnedTensor rows;
};

template <class Body>
void OverPages(benchmark::State& state, DType dtype, const Body& body) {
  const int64_t g = state.range(0), width = state.range(1);
  const Pages pages(dtype, width);
  int64_t page = 0;
  const double best = BestIteration(state, [&] {
    for (int64_t i = 0; i < kCalls; ++i) {
      body(pages.Page(page));
      page = (page + 1) % pages.count;
    }
  });
  const double elements = static_cast<double>(kCalls * kPageRows * width);
  Report(state, best, elements * static_cast<double>(SizeOf(dtype)),
         2.0 * static_cast<double>(g) * elements);
}

void RunDotRows(benchmark::State& state, DType dtype) {
  const Matrix<float> q = Floats(state.range(0), state.range(1));
  Matrix<float> scores(state.range(0), kPageRows);
  OverPages(state, dtype, [&](const StoredRows& rows) {
    DotRows(q, rows, scores);
    benchmark::DoNotOptimize(scores.data());
  });
}

void RunAccumulateRows(benchmark::State& state, DType dtype) {
  const Matrix<float> p = Floats(state.range(0), kPageRows);
  Matrix<float> acc = Floats(state.range(0), state.range(1));
  OverPages(state, dtype, [&](const StoredRows& rows) {
    AccumulateRows(p, rows, acc);
    benchmark::DoNotOptimize(acc.data());
  });
}

void Widths(benchmark::internal::Benchmark* b) {
  for (int64_t g : {1, 4}) {
    for (int64_t width : {32, 64, 128, 512}) b->Args({g, width});
  }
  b->ArgNames({"g", "width"});
}

BENCHMARK_CAPTURE(RunDotRows, f32, DType::kF32)->Apply(Widths);
BENCHMARK_CAPTURE(RunDotRows, f16, DType::kF16)->Apply(Widths);
BENCHMARK_CAPTURE(RunDotRows, bf16, DType::kBF16)->Apply(Widths);
BENCHMARK_CAPTURE(RunAccumulateRows, f32, DType::kF32)->Apply(Widths);
BENCHMARK_CAPTURE(RunAccumulateRows, f16, DType::kF16)->Apply(Widths);
BENCHMARK_CAPTURE(RunAccumulateRows, bf16, DType::kBF16)->Apply(Widths);

}  // namespace
}  // namespace palu::bench
