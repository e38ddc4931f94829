// Calibration on the device against the CPU's.
#include "compress/calibrate.h"

#include <cmath>

#include "base/cancel.h"
#include "base/rng.h"
#include "compress/budget_pipeline.h"
#include "compress/pipeline.h"
#include "ops/cuda/cuda_testing.h"
#include "testing.h"

namespace palu {
namespace {

constexpr Device kDevice{Device::Kind::kCuda};

std::vector<TokenId> RandomIds(int64_t n, int64_t vocab) {
  Rng rng(7);
  std::vector<TokenId> ids(static_cast<size_t>(n));
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.Below(static_cast<uint64_t>(vocab)));
  return ids;
}

// Both compute in float32 and add in other orders. A sum of n terms is off by at most n u of the
// sum of magnitudes; a layer is four sums of at most `longest` terms each after one another, and a
// norm. Nothing here makes the errors of a layer larger than the sum of those before.
double ForwardError(const ModelConfig& c, int64_t layers, int64_t seqlen) {
  const auto longest = static_cast<double>(std::max({c.hidden_size, c.intermediate_size, seqlen}));
  return static_cast<double>(5 * layers + 1) * longest * 0x1p-24;
}

// Means and second moments of gradients, whose columns are off by at most `error` times the typical
// column's norm, as those of the inputs are.
void ExpectSameMoments(const CalibrationStats& cpu, const CalibrationStats& device, double error) {
  ASSERT_EQ(device.means.size(), cpu.means.size());
  ASSERT_EQ(device.output_grads.size(), cpu.output_grads.size());
  for (size_t l = 0; l < cpu.means.size(); ++l) {
    double typical = 0;
    const auto hidden = std::ssize(cpu.means[l]);
    for (int64_t i = 0; i < hidden; ++i) typical += cpu.grams[l](i, i);
    const auto tokens = static_cast<double>(cpu.source.windows * cpu.source.seqlen);
    typical = std::sqrt(typical / static_cast<double>(hidden) / tokens);
    for (size_t i = 0; i < cpu.means[l].size(); ++i) {
      ASSERT_NEAR(device.means[l][i], cpu.means[l][i], error * 2 * typical) << l << ' ' << i;
    }
    const Matrix<double>&a = cpu.output_grads[l], &b = device.output_grads[l];
    double trace = 0;
    for (int64_t i = 0; i < a.rows(); ++i) trace += a(i, i);
    const double scale = std::sqrt(trace / static_cast<double>(a.rows()));
    for (int64_t i = 0; i < a.rows(); ++i) {
      const double whole = std::sqrt(a(i, i));
      ASSERT_NEAR(device.far_squares[l][static_cast<size_t>(i)],
                  cpu.far_squares[l][static_cast<size_t>(i)], error * 4 * whole * (whole + scale));
      for (int64_t j = 0; j <= i; ++j) {
        const double si = std::sqrt(a(i, i)), sj = std::sqrt(a(j, j));
        ASSERT_NEAR(b(i, j), a(i, j), error * ((si + scale) * sj + si * (sj + scale)))
            << l << ' ' << i << ' ' << j;
      }
    }
  }
}

class CalibrateOnDevice : public ::testing::TestWithParam<std::string> {};

TEST_P(CalibrateOnDevice, AgreesWithTheCpu) {
  PALU_SKIP_WITHOUT_DEVICE();
  constexpr int64_t kWindows = 3, kSeqlen = 600, kFisher = 2;  // more than a block of queries
  const Model model = Model::Load(testing::Repo("tests/data/models/" + GetParam()));
  const ModelConfig& c = model.config();
  const auto ids = RandomIds(kWindows * kSeqlen, c.vocab_size);
  const CalibrationSource source =
      PlanCalibration(model, ids, kWindows, kSeqlen, kFisher, true, 16);
  ThreadPool pool(2);
  const CalibrationStats cpu = Calibrate(model, ids, source, {.pool = pool});
  int64_t ticks = 0;
  const CalibrationStats device =
      Calibrate(model, ids, source, {.pool = pool, .device = kDevice}, [&] { ++ticks; });
  EXPECT_EQ(ticks, kWindows);
  EXPECT_EQ(device.source, source);
  ASSERT_EQ(device.grams.size(), cpu.grams.size());
  ASSERT_EQ(device.fisher.size(), cpu.fisher.size());

  const int64_t hidden = c.hidden_size;
  double worst = 0, worst_fisher = 0;
  for (int64_t l = 0; l < c.num_layers; ++l) {
    const auto& a = cpu.grams[static_cast<size_t>(l)];
    const auto& b = device.grams[static_cast<size_t>(l)];
    double trace = 0;
    for (int64_t i = 0; i < hidden; ++i) trace += a(i, i);
    // A column x_i of the inputs has norm s_i = sqrt(a_ii); it is off by at most `error` times s_i
    // and the typical column's norm. By Cauchy and Schwarz so is the product of two columns.
    const double typical = std::sqrt(trace / static_cast<double>(hidden));
    const double error = ForwardError(c, l, kSeqlen);
    for (int64_t i = 0; i < hidden; ++i) {
      for (int64_t j = 0; j < hidden; ++j) {
        if (j > i) {
          ASSERT_EQ(b(i, j), 0);
          continue;
        }
        const double si = std::sqrt(a(i, i)), sj = std::sqrt(a(j, j));
        const double scale = (si + typical) * sj + si * (sj + typical);
        const double difference = std::abs(b(i, j) - a(i, j));
        ASSERT_LE(difference, error * scale) << l << ' ' << i << ' ' << j;
        worst = std::max(worst, difference / scale);
      }
    }
  }
  // Forward, recomputation and backward, the latter with twice the sums of the forward pass.
  const double error = 3 * ForwardError(c, c.num_layers, kSeqlen);
  for (size_t l = 0; l < cpu.fisher.size(); ++l) {
    const auto compare = [&](const std::vector<double>& x, const std::vector<double>& y) {
      ASSERT_EQ(x.size(), y.size());
      for (size_t h = 0; h < x.size(); ++h) {
        ASSERT_GT(y[h], 0);
        ASSERT_NEAR(y[h] / x[h], 1, error) << l << ' ' << h;
        worst_fisher = std::max(worst_fisher, std::abs(y[h] / x[h] - 1));
      }
    };
    compare(cpu.fisher[l].k, device.fisher[l].k);
    compare(cpu.fisher[l].v, device.fisher[l].v);
  }
  ExpectSameMoments(cpu, device, error);
  std::printf("%s: Gram %.1e of the norms, Fisher %.1e\n", GetParam().c_str(), worst, worst_fisher);
}

TEST_P(CalibrateOnDevice, Repeats) {
  PALU_SKIP_WITHOUT_DEVICE();
  const Model model = Model::Load(testing::Repo("tests/data/models/" + GetParam()));
  const auto ids = RandomIds(4 * 32, model.config().vocab_size);
  const CalibrationSource source = PlanCalibration(model, ids, 4, 32, 2);
  ThreadPool pool(2);
  const Exec exec{.pool = pool, .device = kDevice};
  const CalibrationStats a = Calibrate(model, ids, source, exec);
  const CalibrationStats b = Calibrate(model, ids, source, exec);
  for (size_t l = 0; l < a.grams.size(); ++l) {
    for (int64_t i = 0; i < a.grams[l].size(); ++i) {
      ASSERT_EQ(a.grams[l].data()[i], b.grams[l].data()[i]);
    }
    EXPECT_EQ(a.fisher[l].k, b.fisher[l].k);
    EXPECT_EQ(a.fisher[l].v, b.fisher[l].v);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CalibrateOnDevice,
                         ::testing::Values("stories260k", "family-llama31", "family-qwen2",
                                           "family-qwen3"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(CalibrateOnDevice, CancellationAndNoFisher) {
  PALU_SKIP_WITHOUT_DEVICE();
  const Model model = Model::Load(testing::Repo("tests/data/models/stories260k"));
  const auto ids = RandomIds(8 * 16, model.config().vocab_size);
  const CalibrationSource source = PlanCalibration(model, ids, 8, 16, 0);
  ThreadPool pool(1);
  const Exec exec{.pool = pool, .device = kDevice};
  int64_t ticks = 0;
  EXPECT_THROW(Calibrate(model, ids, source, exec,
                         [&] {
                           ++ticks;
                           RequestCancel();
                         }),
               Cancelled);
  ClearCancel();
  EXPECT_LT(ticks, 8);  // those of one layer
  EXPECT_TRUE(Calibrate(model, ids, source, exec).fisher.empty());
}

// The same statistics on both: equal tables, and nearly equal losses. A singular value is off by
// hidden * eps times the condition of the inputs' factor, at most 1e3 here, of the largest one;
// those that the loss is made of are above 1e-3 of that, and are squared: 256 * 2^-52 * 1e6 * 2.
TEST(CompressOnDevice, FindsTheCpusTable) {
  PALU_SKIP_WITHOUT_DEVICE();
  const Model model = Model::Load(testing::Repo("models/wiki-7m-mha"));
  const auto ids = RandomIds(8 * 128, model.config().vocab_size);
  ThreadPool pool(2);
  const CalibrationStats stats =
      Calibrate(model, ids, PlanCalibration(model, ids, 8, 128, 2, true, 16), {.pool = pool});
  for (const int64_t group : {1, 2, 4}) {
    const BudgetCompressOptions options{.bits_per_element = 2, .group_size = group};
    const CompressionResult cpu = CompressToBudget(model, stats, options, {.pool = pool});
    const CompressionResult device =
        CompressToBudget(model, stats, options, {.pool = pool, .device = kDevice});
    EXPECT_NEAR(device.compression.predicted_loss / cpu.compression.predicted_loss, 1,
                256 * 0x1p-52 * 1e6 * 2);
    ASSERT_EQ(device.factors.size(), cpu.factors.size());
    for (size_t l = 0; l < cpu.factors.size(); ++l) {
      EXPECT_EQ(device.compression.layers[l].k.tiers, cpu.compression.layers[l].k.tiers) << l;
      EXPECT_EQ(device.compression.layers[l].v.tiers, cpu.compression.layers[l].v.tiers) << l;
      EXPECT_EQ(device.compression.layers[l].shared, cpu.compression.layers[l].shared) << l;
    }
  }
}

// The same statistics on both: equal ranks, and equal shares of discarded energy to the rounding of
// float64, which the squares of singular values lose at most a few hundred times.
TEST(CompressOnDevice, DiscardsWhatTheCpuDiscards) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const char* name : {"stories260k", "family-llama31", "family-qwen3"}) {
    const Model model = Model::Load(testing::Repo(std::string("tests/data/models/") + name));
    const auto ids = RandomIds(4 * 128, model.config().vocab_size);
    ThreadPool pool(2);
    const CalibrationStats stats =
        Calibrate(model, ids, PlanCalibration(model, ids, 4, 128, 2), {.pool = pool});
    for (const Decomposition decomposition : {Decomposition::kWhiten, Decomposition::kSvd}) {
      CompressOptions options;
      options.ranks = {RankSearch::kFisherUniform, 0.5, 2, 4};
      options.decomposition = decomposition;
      const CompressionResult cpu = Compress(model, stats, options, {.pool = pool});
      const CompressionResult device =
          Compress(model, stats, options, {.pool = pool, .device = kDevice});
      EXPECT_EQ(device.repaired_layers, cpu.repaired_layers);
      for (size_t l = 0; l < cpu.factors.size(); ++l) {
        const LayerRanks &a = cpu.compression.layers[l], &b = device.compression.layers[l];
        EXPECT_EQ(b.k.ranks, a.k.ranks);
        EXPECT_EQ(b.v.ranks, a.v.ranks);
        EXPECT_NEAR(device.discarded[l].k, cpu.discarded[l].k, 1000 * 0x1p-52) << name << ' ' << l;
        EXPECT_NEAR(device.discarded[l].v, cpu.discarded[l].v, 1000 * 0x1p-52) << name << ' ' << l;
        EXPECT_EQ(device.factors[l].k.vt.View().shape, cpu.factors[l].k.vt.View().shape);
        EXPECT_EQ(device.factors[l].v.u.size(), cpu.factors[l].v.u.size());
      }
    }
  }
}

}  // namespace
}  // namespace palu
