#include "compress/budget_pipeline.h"

#include <cmath>

#include "compress/calibrate.h"
#include "format/rounding.h"
#include "golden.h"
#include "linalg/gemm.h"
#include "runtime/engine.h"
#include "runtime/transformer.h"

namespace palu {
namespace {

using testing::ErrorOf;
using testing::TempDir;

class BudgetPipeline : public ::testing::Test {
 protected:
  static CalibrationStats MakeStats(const Model& model) {
    const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
    ThreadPool pool(2);
    return Calibrate(model, ids, PlanCalibration(model, ids, 2, 80, 2, true), {.pool = pool});
  }

  CompressionResult Compress(const BudgetCompressOptions& options) {
    return CompressToBudget(model_, stats_, options, exec_);
  }

  Model Written(const CompressionResult& result, const std::string& name) {
    const std::filesystem::path directory = dir_ / name;
    std::filesystem::create_directories(directory);
    const TensorStore store = TensorStore::OpenDirectory(model_.path());
    WriteCompressedModel(
        {model_.path(), store, model_.config(), result.compression, result.factors, "card"},
        directory);
    return Model::Load(directory);
  }

  TempDir dir_;
  ThreadPool pool_{2};
  Exec exec_{.pool = pool_};
  Model model_ = Model::Load(testing::Repo("tests/data/models/stories260k"));
  CalibrationStats stats_ = MakeStats(model_);
};

TEST_F(BudgetPipeline, StaysWithinTheBudgetAsTheCacheCountsIt) {
  for (const bool shared : {false, true}) {
    for (const double bits : {2.0, 3.0, 5.0}) {
      const CompressionResult result =
          Compress({.bits_per_element = bits, .allow_shared = shared, .allow_separate = !shared});
      ModelConfig config = model_.config();
      config.compression = result.compression;
      const CacheLayout layout(config, DType::kF16);
      EXPECT_LE(layout.bits_per_element(), bits);
      EXPECT_EQ(layout.bytes().padding, 0);
      EXPECT_EQ(layout.bytes().zeros, 0);
      EXPECT_GT(result.compression.predicted_loss, 0);
    }
  }
}

TEST_F(BudgetPipeline, PreferringSpeedRebuildsLess) {
  const CompressionResult memory = Compress({.bits_per_element = 3});
  const CompressionResult speed =
      Compress({.bits_per_element = 3, .work_weight = kSpeedWorkWeight});
  EXPECT_LT(speed.decode_work, memory.decode_work);
  EXPECT_GT(speed.compression.predicted_loss, memory.compression.predicted_loss);
  ModelConfig config = model_.config();
  config.compression = speed.compression;
  EXPECT_LE(CacheLayout(config, DType::kF16).bits_per_element(), 3);
}

TEST_F(BudgetPipeline, TheConfigurationSurvivesTheDisk) {
  const CompressionResult result = Compress({.bits_per_element = 2.5});
  const Model loaded = Written(result, "model");
  const KvCompression& kv = loaded.config().compression.value();
  EXPECT_TRUE(kv.tiered);
  EXPECT_TRUE(kv.centered);
  EXPECT_EQ(kv.version, 3);
  EXPECT_EQ(kv.budget, 2.5);
  EXPECT_EQ(kv.predicted_loss, result.compression.predicted_loss);
  ASSERT_EQ(kv.layers.size(), result.compression.layers.size());
  for (size_t l = 0; l < kv.layers.size(); ++l) {
    const LayerRanks &read = kv.layers[l], &made = result.compression.layers[l];
    EXPECT_EQ(read.shared, made.shared);
    EXPECT_EQ(read.k.ranks, made.k.ranks);
    EXPECT_EQ(read.k.tiers, made.k.tiers);
    EXPECT_EQ(read.v.tiers, made.v.tiers);
  }
}

// At 8 bits everywhere nothing is discarded: U (A x + c) + b is W x up to the rounding of the
// factors, which are F32 here, so up to 2^-23 of the sums of magnitudes.
TEST_F(BudgetPipeline, WithoutTruncationTheFactorsAreTheProjections) {
  for (const bool shared : {false, true}) {
    const CompressionResult result = Compress({.bits_per_element = 16,
                                               .factor_dtype = DType::kF32,
                                               .bits = {8},
                                               .allow_shared = shared,
                                               .allow_separate = !shared});
    for (size_t l = 0; l < result.factors.size(); ++l) {
      const LayerFactors& factors = result.factors[l];
      const LayerWeights& weights = model_.weights().layers[l];
      const Factors& latents = factors.k;
      for (const bool key : {true, false}) {
        const Factors& side = key ? factors.k : factors.v;
        const Factors& down_of = shared ? latents : side;
        const Matrix<double> w = ToDouble(key ? weights.k.dense : weights.v.dense);
        const Matrix<double> up = ToDouble(side.u.at(0).View()), down = ToDouble(down_of.vt.View());
        const Matrix<double> shift = ToDouble(down_of.vt_bias.View());
        const Matrix<double> bias = ToDouble(side.bias.View());
        ASSERT_EQ(up.cols(), down.rows());
        for (int64_t r = 0; r < w.rows(); ++r) {
          double constant = bias(r, 0), constant_magnitude = std::abs(bias(r, 0));
          for (int64_t i = 0; i < up.cols(); ++i) {
            constant += up(r, i) * shift(i, 0);
            constant_magnitude += std::abs(up(r, i) * shift(i, 0));
          }
          EXPECT_NEAR(constant, 0, 0x1p-22 * constant_magnitude);
          for (int64_t c = 0; c < w.cols(); ++c) {
            double sum = 0, magnitude = 0;
            for (int64_t i = 0; i < up.cols(); ++i) {
              sum += up(r, i) * down(i, c);
              magnitude += std::abs(up(r, i) * down(i, c));
            }
            ASSERT_NEAR(sum, w(r, c), 0x1p-22 * magnitude) << l << ' ' << r << ' ' << c;
          }
        }
      }
    }
  }
}

// What a forward pass stores is what the layout says, whichever latents keys and values share.
TEST_F(BudgetPipeline, ThePoolHoldsWhatTheLayoutCounts) {
  const Model loaded = Written(Compress({.bits_per_element = 2, .allow_separate = false}), "model");
  KvCache cache(loaded.config(), DType::kF16);
  Transformer transformer(loaded, cache.layout(), exec_);
  CachedSequence sequence = cache.NewSequence();
  const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
  const auto tokens = std::span(ids).first(100);
  sequence.Reserve(100);
  Batch batch;
  batch.Add(sequence, tokens);
  EXPECT_EQ(transformer.Forward(batch), 100);
  EXPECT_EQ(cache.pool().bytes_in_use(), 2 * cache.layout().block_bytes());
  EXPECT_LE(8.0 * static_cast<double>(cache.pool().bytes_in_use()) / 128,
            2.0 * static_cast<double>(2 * loaded.config().num_layers * loaded.config().kv_size()));
}

TEST_F(BudgetPipeline, RefusesWhatItCannotDo) {
  EXPECT_EQ(ErrorOf([&] { Compress({.bits_per_element = 0}); }),
            "budget: expected bits per element above 0 and up to 16, found 0");
  EXPECT_EQ(ErrorOf([&] { Compress({.group_size = 3}); }),
            "group-size: expected a divisor of the 4 KV heads, found 3");
  EXPECT_NE(ErrorOf([&] { Compress({.block = 48}); }).find("tier-block"), std::string::npos);
  EXPECT_NE(ErrorOf([&] { Compress({.bits_per_element = 0.1}); }).find("or more"),
            std::string::npos);
  stats_.output_grads.clear();
  EXPECT_NE(ErrorOf([&] { Compress({}); }).find("output gradients"), std::string::npos);
}

}  // namespace
}  // namespace palu
