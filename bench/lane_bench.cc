// Decode attention from 4-bit codes, kernel by kernel: a block of 64 tokens with 128 latents and
// four queries per KV head, everything in L1, beside the two that stored fp16 rows need.
#include "bench_data.h"
#include "ops/cpu/lane_kernels.h"
#include "ops/softmax_state.h"
#include "ops/vector.h"

namespace palu::bench {
namespace {

using cpu::kTileLanes;

constexpr int64_t kLatents = 128, kQueries = 4, kHeadDim = 64;
constexpr int64_t kCalls = 64;  // per timing

template <class T>
AlignedBuffer<T> Filled(int64_t n, T value) {
  AlignedBuffer<T> buffer(n);
  std::fill_n(buffer.data(), n, value);
  return buffer;
}

struct Block {
  AlignedBuffer<uint8_t> packed = Filled<uint8_t>(kTileLanes * kLatents / 2, 0x5a);
  AlignedBuffer<uint8_t> lanes = Filled<uint8_t>(kTileLanes * kLatents, 5);
  AlignedBuffer<int8_t> rows = Filled<int8_t>(cpu::PackedRowBytes(4, kLatents / 4), 3);
  AlignedBuffer<float> ones = Filled(kTileLanes, 1.0f), angles = Filled(2 * kTileLanes, 0.5f);
  AlignedBuffer<float> keys = Filled(4 * kTileLanes, 1.0f);
  Matrix<float> queries = Floats(kQueries, kHeadDim), scores = Floats(kQueries, kTileLanes);
  Matrix<float> sums = Floats(2, kTileLanes);
  OwnedTensor stored = Stored(DType::kF16, kTileLanes, kHeadDim);
  cpu::LaneCodes codes{packed.data(), kLatents / 2, kLatents, 4};
  cpu::PlaneSums planes[2];
  SoftmaxState state;
};

using Call = void (*)(const cpu::LaneKernels&, Block&);

void Run(benchmark::State& state, Call call) {
  const cpu::LaneKernels* kernels = cpu::BestLaneKernels();
  if (kernels == nullptr) return state.SkipWithError("this machine has no AVX-512 VNNI");
  Block block;
  const double best = BestIteration(state, [&] {
    for (int64_t i = 0; i < kCalls; ++i) {
      call(*kernels, block);
      benchmark::ClobberMemory();
    }
  });
  state.counters["best_ns"] = best / kCalls * 1e9;
}

void Add(const char* name, Call call) {
  benchmark::RegisterBenchmark(name, [call](benchmark::State& state) { Run(state, call); });
}

const bool kRegistered = [] {
  Add("Lanes/load_codes",
      [](const cpu::LaneKernels& k, Block& b) { k.load_codes(b.codes, b.lanes.data()); });
  Add("Lanes/add_rows (four rows)", [](const cpu::LaneKernels& k, Block& b) {
    k.add_rows({b.lanes.data(), kLatents / 4, b.rows.data(), b.ones.data(), b.ones.data(),
                b.ones.data(), nullptr, nullptr, b.keys.data()});
  });
  Add("Lanes/add_pairs (two pairs)", [](const cpu::LaneKernels& k, Block& b) {
    k.add_pairs({b.keys.data(),
                 b.angles.data(),
                 b.angles.data(),
                 {b.queries.data(), b.queries.data() + kHeadDim / 2},
                 kHeadDim,
                 kQueries,
                 b.scores.data(),
                 kTileLanes,
                 true});
  });
  Add("Lanes/add_waves (four rows)", [](const cpu::LaneKernels& k, Block& b) {
    k.add_waves({b.keys.data(), 0, 4, 2, b.angles.data(), kTileLanes, b.scores.data(), kTileLanes,
                 b.ones.data()});
  });
  Add("Lanes/softmax (one query)",
      [](const cpu::LaneKernels&, Block& b) { Absorb(&b.state, b.scores.data(), kTileLanes); });
  Add("Lanes/load_values", [](const cpu::LaneKernels& k, Block& b) {
    k.load_values(b.codes, 4 * kLatents, b.lanes.data());
  });
  Add("Lanes/split_weights (two queries)", [](const cpu::LaneKernels& k, Block& b) {
    k.split_weights({{b.scores.Row(0), b.scores.Row(1)},
                     b.ones.data(),
                     b.ones.data(),
                     kTileLanes,
                     b.rows.data()},
                    b.planes);
  });
  Add("Lanes/add_values (two queries, 64 latents)", [](const cpu::LaneKernels& k, Block& b) {
    k.add_values({b.lanes.data(),
                  4 * kLatents,
                  b.rows.data(),
                  b.planes,
                  kTileLanes,
                  {b.sums.Row(0), b.sums.Row(1)}});
  });
  Add("Stored/scores (four queries)", [](const cpu::LaneKernels&, Block& b) {
    DotRows(b.queries, {b.stored.data(), DType::kF16, kHeadDim}, b.scores);
  });
  Add("Stored/values (four queries)", [](const cpu::LaneKernels&, Block& b) {
    AccumulateRows(b.scores, {b.stored.data(), DType::kF16, kHeadDim}, b.queries);
  });
  return true;
}();

}  // namespace
}  // namespace palu::bench
