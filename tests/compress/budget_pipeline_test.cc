#include "compress/budget_pipeline.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

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
    return Calibrate(model, ids, PlanCalibration(model, ids, 2, 80, 2, true, 16), {.pool = pool});
  }

  // Windows of other lengths than the statistics' are for what does not depend on gradients.
  CompressionResult Compress(const BudgetCompressOptions& options) {
    stats_.source.recent = options.recent;
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

// The same table, whose loss is what queries beyond the window add.
TEST_F(BudgetPipeline, TheWindowTakesItsShareOfThePredictedLoss) {
  const CompressionResult all = Compress({.bits_per_element = 3});
  for (std::vector<double>& squares : stats_.far_squares) {
    for (size_t i = 0; i < squares.size(); ++i) squares[i] *= 0.25;
  }
  const CompressionResult quarter = Compress({.bits_per_element = 3});
  EXPECT_NEAR(quarter.compression.predicted_loss, all.compression.predicted_loss / 4,
              1e-12 * all.compression.predicted_loss);
  for (size_t l = 0; l < all.compression.layers.size(); ++l) {
    EXPECT_EQ(quarter.compression.layers[l].k.tiers, all.compression.layers[l].k.tiers);
  }
  // Without a window everything is far, to the rounding of float64.
  const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
  stats_ = Calibrate(model_, ids, PlanCalibration(model_, ids, 2, 80, 2, true, 0), exec_);
  for (size_t l = 0; l < stats_.far_squares.size(); ++l) {
    for (size_t i = 0; i < stats_.far_squares[l].size(); ++i) {
      const auto r = static_cast<int64_t>(i);
      EXPECT_NEAR(stats_.far_squares[l][i], stats_.output_grads[l](r, r),
                  1e-12 * stats_.far_squares[l][i]);
    }
  }
}

TEST_F(BudgetPipeline, TheConfigurationSurvivesTheDisk) {
  const CompressionResult result = Compress({.bits_per_element = 2.5});
  const Model loaded = Written(result, "model");
  const KvCompression& kv = loaded.config().compression.value();
  EXPECT_TRUE(kv.tiered);
  EXPECT_TRUE(kv.centered);
  EXPECT_EQ(kv.version, 4);
  EXPECT_EQ(kv.recent, 16);
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

// What is judged is what is written.
TEST_F(BudgetPipeline, TheModelInMemoryIsTheOneOnDisk) {
  for (const bool shared : {false, true}) {
    const CompressionResult made =
        Compress({.bits_per_element = 2, .allow_shared = shared, .allow_separate = !shared});
    const Model written = Written(made, fmt::format("shared-{}", shared));
    const Model model = InMemory(model_, made.compression, made.factors);
    EXPECT_EQ(CacheLayout(model.config(), DType::kF16).bits_per_element(),
              CacheLayout(written.config(), DType::kF16).bits_per_element());
    ASSERT_EQ(model.views().size(), written.views().size());
    for (size_t i = 0; i < model.views().size(); ++i) {
      const TensorView &a = model.views()[i].second, &b = written.views()[i].second;
      ASSERT_EQ(a.shape, b.shape);
      ASSERT_EQ(a.dtype, b.dtype);
      EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())), 0) << i;
    }
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
  EXPECT_EQ(cache.bytes_in_use(), cache.layout().BytesFor(100));
  EXPECT_EQ(sequence.bytes(), cache.bytes_in_use());
  EXPECT_LE(8.0 * static_cast<double>(cache.pool().bytes_in_use()) / 128,
            2.0 * static_cast<double>(2 * loaded.config().num_layers * loaded.config().kv_size()));
}

// A window that holds all tokens hides the codes, so that runs that cut the text differently agree
// up to fp16 roundings of latents that nearly tie: 2^-11 of keys and of values in every layer. One
// of 4 tokens does not, and is nearer to it than none.
TEST_F(BudgetPipeline, TheWindowIsWhatQueriesMeet) {
  const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
  const auto last_logits = [&](int64_t recent, std::initializer_list<int64_t> chunks) {
    const Model model = Written(Compress({.bits_per_element = 8, .bits = {2}, .recent = recent}),
                                fmt::format("recent-{}", recent));
    KvCache cache(model.config(), DType::kF16);
    Transformer transformer(model, cache.layout(), exec_);
    CachedSequence sequence = cache.NewSequence();
    Matrix<float> logits(1, model.config().vocab_size);
    for (const int64_t count : chunks) {
      sequence.Reserve(count);
      Batch batch;
      batch.Add(sequence, std::span(ids).subspan(static_cast<size_t>(sequence.length()),
                                                 static_cast<size_t>(count)));
      transformer.Forward(batch);
      transformer.Logits(count - 1, logits);
    }
    return std::vector<float>(logits.data(), logits.data() + logits.size());
  };
  const auto distance = [](const std::vector<float>& a, const std::vector<float>& b) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - b[i]));
    return most;
  };
  const std::vector<float> all = last_logits(100, {100});
  double largest = 0;
  for (const float x : all) largest = std::max(largest, std::abs(double{x}));
  const double tolerance = static_cast<double>(2 * model_.config().num_layers) * 0x1p-11 * largest;
  EXPECT_LT(distance(all, last_logits(100, {1, 1, 60, 7, 30, 1})), tolerance);
  const double some = distance(all, last_logits(4, {99, 1})),
               none = distance(all, last_logits(0, {99, 1}));
  EXPECT_GT(some, tolerance);
  EXPECT_LT(some, none);
}

TEST_F(BudgetPipeline, RefusesWhatItCannotDo) {
  EXPECT_EQ(ErrorOf([&] { Compress({.bits_per_element = 0}); }),
            "budget: expected bits per element above 0 and up to 16, found 0");
  EXPECT_EQ(ErrorOf([&] { Compress({.group_size = 3}); }),
            "group-size: expected a divisor of the 4 KV heads, found 3");
  EXPECT_NE(ErrorOf([&] { Compress({.block = 48}); }).find("tier-block"), std::string::npos);
  EXPECT_NE(ErrorOf([&] { Compress({.bits_per_element = 0.1}); }).find("or more"),
            std::string::npos);
  stats_.source.recent = 5;
  EXPECT_EQ(ErrorOf([&] { CompressToBudget(model_, stats_, {}, exec_); }),
            "budget: expected calibration statistics for a window of 16 recent tokens, found 5");
  stats_.output_grads.clear();
  EXPECT_NE(ErrorOf([&] { Compress({}); }).find("output gradients"), std::string::npos);
}

}  // namespace
}  // namespace palu
