#include "compress/calibrate.h"

#include <cmath>
#include <numeric>

#include "base/cancel.h"
#include "golden.h"
#include "model/calibration_graph.h"
#include "model/tensor_names.h"
#include "ops/rope.h"

namespace palu {
namespace {

using nlohmann::json;

// sum x x^T over the inputs by plain loops in float64. Both sum the same products; the order may
// differ, so each entry is off by at most n * 2^-53 times the sum of magnitudes.
TEST(Calibrate, GramIsTheSumOverInputs) {
  const Model model = Model::Load(testing::Repo("tests/data/models/stories260k"));
  const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
  constexpr int64_t kWindows = 3, kSeqlen = 32;
  ThreadPool pool(2);
  int64_t ticks = 0;
  const CalibrationSource source = PlanCalibration(model, ids, kWindows, kSeqlen, 1);
  const CalibrationStats stats = Calibrate(model, ids, source, {.pool = pool}, [&] { ++ticks; });
  EXPECT_EQ(ticks, kWindows);
  EXPECT_EQ(stats.source, source);

  const ModelConfig& c = model.config();
  std::vector<Matrix<double>> sums, magnitudes;
  for (int64_t l = 0; l < c.num_layers; ++l) {
    sums.emplace_back(c.hidden_size, c.hidden_size).Fill(0);
    magnitudes.emplace_back(c.hidden_size, c.hidden_size).Fill(0);
  }
  CalibrationGraph<float> graph(c, model.weights(), InverseFrequencies(c.rope, c.head_dim), pool);
  for (int64_t w = 0; w < kWindows; ++w) {
    graph.CollectInputs(std::span(ids).subspan(static_cast<size_t>(w * kSeqlen), kSeqlen),
                        [&](int64_t layer, MatrixView<const float> x) {
                          const auto l = static_cast<size_t>(layer);
                          for (int64_t t = 0; t < x.rows; ++t) {
                            for (int64_t i = 0; i < x.cols; ++i) {
                              for (int64_t j = 0; j <= i; ++j) {
                                const double product = static_cast<double>(x(t, i)) * x(t, j);
                                sums[l](i, j) += product;
                                magnitudes[l](i, j) += std::abs(product);
                              }
                            }
                          }
                        });
  }
  for (size_t l = 0; l < sums.size(); ++l) {
    for (int64_t i = 0; i < c.hidden_size; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        ASSERT_NEAR(stats.grams[l](i, j), sums[l](i, j),
                    kWindows * kSeqlen * 0x1p-52 * magnitudes[l](i, j))
            << l << ' ' << i << ' ' << j;
      }
    }
  }
  ASSERT_EQ(stats.fisher.size(), sums.size());
  for (const LayerFisher& layer : stats.fisher) {
    ASSERT_EQ(layer.k.size(), 4u);
    for (const double f : layer.k) EXPECT_GT(f, 0);
  }
}

// The same windows by plain loops in float64; the library differs by the order of its sums, of
// which each is off by at most n 2^-53 times the sum of magnitudes, and by a scale rounded twice.
void ExpectTwoSidedSums(int64_t recent) {
  const Model model = Model::Load(testing::Repo("tests/data/models/stories260k"));
  const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
  constexpr int64_t kWindows = 3, kFisher = 2, kSeqlen = 32;
  ThreadPool pool(2);
  const CalibrationStats stats =
      Calibrate(model, ids, PlanCalibration(model, ids, kWindows, kSeqlen, kFisher, true, recent),
                {.pool = pool});
  const ModelConfig& c = model.config();
  ASSERT_EQ(std::ssize(stats.means), c.num_layers);
  ASSERT_EQ(std::ssize(stats.output_grads), c.num_layers);
  const int64_t kv = c.kv_size();
  std::vector<Matrix<double>> sums, magnitudes;
  std::vector<std::vector<double>> inputs(static_cast<size_t>(c.num_layers)), sizes = inputs,
                                                                              far = inputs;
  for (int64_t l = 0; l < c.num_layers; ++l) {
    sums.emplace_back(2 * kv, 2 * kv).Fill(0);
    magnitudes.emplace_back(2 * kv, 2 * kv).Fill(0);
    inputs[static_cast<size_t>(l)].assign(static_cast<size_t>(c.hidden_size), 0.0);
    sizes[static_cast<size_t>(l)] = inputs[static_cast<size_t>(l)];
    far[static_cast<size_t>(l)].assign(static_cast<size_t>(2 * kv), 0.0);
  }
  CalibrationGraph<float> graph(c, model.weights(), InverseFrequencies(c.rope, c.head_dim), pool,
                                recent);
  const auto on_input = [&](int64_t layer, MatrixView<const float> x) {
    const auto l = static_cast<size_t>(layer);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t i = 0; i < x.cols; ++i) {
        inputs[l][static_cast<size_t>(i)] += double{x(t, i)};
        sizes[l][static_cast<size_t>(i)] += std::abs(double{x(t, i)});
      }
    }
  };
  const auto on_gradient = [&](int64_t layer, const KvGradients<float>& g) {
    const auto l = static_cast<size_t>(layer);
    for (int64_t t = 0; t < kSeqlen; ++t) {
      const auto at = [&](int64_t i) { return double{i < kv ? g.dk(t, i) : g.dv(t, i - kv)}; };
      for (int64_t i = 0; i < 2 * kv; ++i) {
        const double x = i < kv ? g.far_dk(t, i) : g.far_dv(t, i - kv);
        far[l][static_cast<size_t>(i)] += x * x;
        for (int64_t j = 0; j <= i; ++j) {
          sums[l](i, j) += at(i) * at(j);
          magnitudes[l](i, j) += std::abs(at(i) * at(j));
        }
      }
    }
  };
  for (int64_t w = 0; w < kWindows; ++w) {
    const auto window = std::span(ids).subspan(static_cast<size_t>(w * kSeqlen), kSeqlen);
    if (w < kFisher) {
      graph.Differentiate(window, on_input, on_gradient);
    } else {
      graph.CollectInputs(window, on_input);
    }
  }
  const double tokens = kWindows * kSeqlen;
  // Gradients of the window's summed loss, over the tokens of the differentiated windows.
  const double scale = (kSeqlen - 1.0) * (kSeqlen - 1.0) / (kFisher * kSeqlen);
  for (size_t l = 0; l < sums.size(); ++l) {
    for (size_t i = 0; i < inputs[l].size(); ++i) {
      EXPECT_NEAR(stats.means[l][i], inputs[l][i] / tokens, 0x1p-50 * sizes[l][i]);
    }
    for (int64_t i = 0; i < 2 * kv; ++i) {
      const double expected = scale * far[l][static_cast<size_t>(i)];
      ASSERT_NEAR(stats.far_squares[l][static_cast<size_t>(i)], expected, 0x1p-44 * expected);
      if (recent == 0) {
        ASSERT_NEAR(expected, stats.output_grads[l](i, i), 0x1p-44 * expected);
      }
      for (int64_t j = 0; j <= i; ++j) {
        ASSERT_NEAR(stats.output_grads[l](i, j), scale * sums[l](i, j),
                    (kWindows * kSeqlen + 4) * 0x1p-52 * scale * magnitudes[l](i, j));
      }
    }
  }
}

TEST(Calibrate, TwoSidedSumsAreOfInputsAndOutputGradients) {
  for (const int64_t recent : {0, 5}) ExpectTwoSidedSums(recent);
  const Model model = Model::Load(testing::Repo("tests/data/models/stories260k"));
  const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
  // A window as long as the text hides every token's code.
  ThreadPool pool(2);
  const CalibrationStats hidden =
      Calibrate(model, ids, PlanCalibration(model, ids, 1, 32, 1, true, 32), {.pool = pool});
  for (size_t l = 0; l < hidden.far_squares.size(); ++l) {
    double far = 0, all = 0;
    for (const double x : hidden.far_squares[l]) far += x;
    for (int64_t i = 0; i < hidden.output_grads[l].rows(); ++i) all += hidden.output_grads[l](i, i);
    EXPECT_LT(far, 1e-10 * all)
        << l;  // squares of differences of equal float32 sums, in two orders
  }
  EXPECT_NE(testing::ErrorOf([&] { PlanCalibration(model, ids, 1, 16, 0, true); }).find("--budget"),
            std::string::npos);
}

TEST(Calibrate, Cancellation) {
  const Model model = Model::Load(testing::Repo("tests/data/models/stories260k"));
  const auto ids = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
  ThreadPool pool(1);
  const CalibrationSource source = PlanCalibration(model, ids, 4, 16, 0);
  int64_t ticks = 0;
  EXPECT_THROW(Calibrate(model, ids, source, {.pool = pool},
                         [&] {
                           ++ticks;
                           RequestCancel();
                         }),
               Cancelled);
  ClearCancel();
  EXPECT_EQ(ticks, 1);
}

// The published code's Fisher information, within the 1 % that the project asks for, and its ranks.
TEST(Calibrate, FisherAgreesWithThePublishedCode) {
  const Model model = Model::Load(testing::Repo("models/wiki-7m-mha"));
  const json reference = testing::Golden("reference_palu_wiki-7m-mha.json");
  constexpr int64_t kWindows = 32, kSeqlen = 1024;
  const std::string text = testing::ReadAll(testing::Repo("data/calib_mix.txt")).substr(0, 300'000);
  const auto ids = LoadTokenizer(model.path(), model.config().bos_token_id)->EncodeWithBos(text);
  ThreadPool pool(2);
  const CalibrationStats stats = Calibrate(
      model, ids, PlanCalibration(model, ids, kWindows, kSeqlen, kWindows), {.pool = pool});
  const std::vector<LayerRanks> ranks =
      SearchRanks(model.config(), {RankSearch::kFisherUniform, 0.5, 4, 32}, stats.fisher);
  double worst = 0;
  const auto check = [&](const std::string& module, const std::vector<double>& heads,
                         const ProjectionRanks& found) {
    const double mean = std::accumulate(heads.begin(), heads.end(), 0.0) / 4;
    const double expected = reference["fisher_mean_per_projection"][module].get<double>();
    worst = std::max(worst, std::abs(mean / expected - 1));
    EXPECT_NEAR(mean / expected, 1, 0.01) << module;
    EXPECT_EQ(json(found.ranks), reference["ranks_fisher_uniform_0.5"][module]) << module;
  };
  for (size_t l = 0; l < stats.fisher.size(); ++l) {
    const auto layer = static_cast<int64_t>(l);
    check(names::KProj(layer), stats.fisher[l].k, ranks[l].k);
    check(names::VProj(layer), stats.fisher[l].v, ranks[l].v);
  }
  std::printf("worst |Fisher / reference - 1| = %.2e\n", worst);
}

}  // namespace
}  // namespace palu
