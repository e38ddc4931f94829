// Linear at decode sizes against the memory's read bandwidth, and at prefill sizes against the
// library's GEMM. Weights are cold: the benchmark walks through more than 512 MB of them.
#include "bench_data.h"
#include "ops/linear.h"

namespace palu::bench {
namespace {

void RunLinear(benchmark::State& state, DType dtype, bool deterministic) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const int64_t weight_bytes = n * k * static_cast<int64_t>(SizeOf(dtype));
  const int64_t copies = (int64_t{512} << 20) / weight_bytes + 1;
  std::vector<OwnedTensor> weights;
  for (int64_t i = 0; i < copies; ++i) weights.push_back(Stored(dtype, n, k));
  const Matrix<float> x = Floats(m, k);
  Matrix<float> y(m, n);
  const Exec exec{Pool(), kCpu, deterministic};
  size_t next = 0;
  const double best = BestIteration(state, [&] {
    Linear(exec, x, weights[next].View(), y);
    benchmark::DoNotOptimize(y.data());
    next = (next + 1) % weights.size();
  });
  Report(state, best, static_cast<double>(weight_bytes), 2.0 * static_cast<double>(m * n * k));
}

void Shapes(benchmark::internal::Benchmark* b, std::initializer_list<int64_t> ms) {
  for (int64_t m : ms) {
    b->Args({m, 8192, 2048});
    b->Args({m, 2048, 8192});
  }
  b->ArgNames({"m", "n", "k"})->UseRealTime()->Unit(benchmark::kMicrosecond);
}

void AllRows(benchmark::internal::Benchmark* b) { Shapes(b, {1, 2, 4, 8, 16, 32, 128, 512}); }
void FewAndMany(benchmark::internal::Benchmark* b) { Shapes(b, {1, 512}); }

BENCHMARK_CAPTURE(RunLinear, bf16, DType::kBF16, false)->Apply(AllRows);
BENCHMARK_CAPTURE(RunLinear, f16, DType::kF16, false)->Apply(FewAndMany);
BENCHMARK_CAPTURE(RunLinear, f32, DType::kF32, false)->Apply(FewAndMany);
BENCHMARK_CAPTURE(RunLinear, bf16_deterministic, DType::kBF16, true)->Apply(FewAndMany);

}  // namespace
}  // namespace palu::bench
