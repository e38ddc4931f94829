// No wall-clock assertions: what is run and recorded, not how fast.
#include "eval/bench/suite.h"

#include <cmath>

#include "base/cancel.h"
#include "base/log.h"
#include "testing.h"

namespace palu {
namespace {

TEST(BenchOptions, ParsesLists) {
  EXPECT_EQ(ParseIntList("512,4096", "--prompt", 1, 9999), (std::vector<int64_t>{512, 4096}));
  EXPECT_EQ(ParseIntList("0", "--depth", 0, 9), (std::vector<int64_t>{0}));
  EXPECT_TRUE(ParseIntList("none", "--depth", 0, 9).empty());
}

TEST(BenchOptions, RefusesWhatIsNoList) {
  for (const char* text :
       {"", ",", "1,", "1,,2", "x", "1x", "1 2", "-1", "10", "1.5", "99999999999999999999"}) {
    EXPECT_EQ(testing::ErrorOf([&] { ParseIntList(text, "--depth", 0, 9); }),
              fmt::format("--depth: expected integers from 0 to 9 separated by commas, found '{}'",
                          text));
  }
}

struct Models {
  Models() : dense(Model::Load(testing::Repo("tests/data/models/stories260k"))) {
    KvCompression compression;
    compression.layers.assign(5, {{{8}}, {{24}}});
    compressed = std::make_unique<Model>(Model::RandomCompressed(dense, compression, 1));
    for (const Model* model : {&std::as_const(dense), &std::as_const(*compressed)}) {
      bench.push_back(std::make_unique<BenchModel>(model == &dense ? "dense" : "palu", *model,
                                                   Exec{.pool = pool}, DType::kF16));
    }
  }
  ThreadPool pool{2};
  Model dense;
  std::unique_ptr<Model> compressed;
  std::vector<std::unique_ptr<BenchModel>> bench;
};

constexpr int64_t kPlenty = int64_t{1} << 40;

TEST(BenchSuite, RunsEveryPointOnEveryModel) {
  Models models;
  const SuiteOptions options{{600, 7}, {0, 100}, {1, 3}, 5, 2};
  int64_t runs = 0;
  const auto rows = RunSuite(options, models.bench, kPlenty, [&] { ++runs; });
  ASSERT_EQ(rows.size(), 6u);
  EXPECT_EQ(runs, 6 * 2 * 2);
  for (const SuiteRow& row : rows) {
    ASSERT_EQ(row.models.size(), 2u);
    for (size_t m = 0; m < 2; ++m) {
      const Measurement& measured = row.models[m];
      ASSERT_EQ(measured.rates.size(), 2u);
      for (const double rate : measured.rates) EXPECT_TRUE(rate > 0 && std::isfinite(rate));
      EXPECT_GT(measured.flops_per_token, 0);
      const Workload& w = row.workload;
      EXPECT_EQ(measured.kv_bytes,
                w.batch * BlocksFor(w.depth + w.tokens) * models.bench[m]->layout().block_bytes());
    }
    EXPECT_EQ(row.models[0].kv_bytes, 2 * row.models[1].kv_bytes);  // ranks 32 of 64
  }
  EXPECT_EQ(rows[0].workload.tokens, 600);
  EXPECT_EQ(rows[0].workload.chunk, 512);
  EXPECT_EQ(rows[5].workload.depth, 100);
  EXPECT_EQ(rows[5].workload.batch, 3);
  EXPECT_FALSE(models.bench[0]->prepared());  // gives its memory back
}

TEST(BenchSuite, CostIsTheSumOverSteps) {
  Models models;
  const BenchModel& dense = *models.bench[0];
  const double at_10 = dense.TotalCost(DecodeWorkload(9, 1, 2)).bytes;
  const double at_11 = dense.TotalCost(DecodeWorkload(10, 1, 2)).bytes;
  EXPECT_EQ(dense.TotalCost(DecodeWorkload(9, 2, 2)).bytes, at_10 + at_11);
  EXPECT_EQ(at_11 - at_10, 2 * dense.layout().bytes_per_token());
  // Two chunks apply the head twice and see the causal pairs of one.
  const ModelConfig& config = dense.model().config();
  const double one = dense.TotalCost({Phase::kPrefill, 0, 20, 1, 20}).flops;
  const double two = dense.TotalCost({Phase::kPrefill, 0, 20, 1, 12}).flops;
  EXPECT_EQ(two - one, 2.0 * static_cast<double>(config.vocab_size * config.hidden_size));
}

TEST(BenchSuite, LeavesOutWhatDoesNotFit) {
  Models models;
  SetQuiet(true);
  const SuiteOptions options{{}, {100}, {1}, 5, 2};
  const Workload workload = DecodeWorkload(100, 5, 1);
  const int64_t dense = models.bench[0]->CacheBytes(workload);
  auto rows = RunSuite(options, models.bench, dense - 1);
  EXPECT_FALSE(rows[0].models[0].fits());
  EXPECT_EQ(rows[0].models[0].kv_bytes, dense);
  EXPECT_TRUE(rows[0].models[1].fits());
  // Each alone, but not both at once: still measured.
  rows = RunSuite(options, models.bench, dense);
  EXPECT_TRUE(rows[0].models[0].fits());
  EXPECT_TRUE(rows[0].models[1].fits());
  SetQuiet(false);
}

TEST(BenchSuite, CanBeInterrupted) {
  Models models;
  RequestCancel();
  EXPECT_THROW(RunSuite({{64}, {}, {}, 1, 1}, models.bench, kPlenty), Cancelled);
  ClearCancel();
}

TEST(BenchSuite, SummarisesSamples) {
  const Measurement odd{{3, 1, 2}}, even{{4, 1, 2, 8}};
  EXPECT_EQ(odd.median(), 2);
  EXPECT_EQ(even.median(), 3);
  EXPECT_EQ(even.min(), 1);
  EXPECT_EQ(even.max(), 8);
}

}  // namespace
}  // namespace palu
