#include "model/calibration_graph.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/thread_pool.h"
#include "linalg/random_matrix.h"
#include "ops/rope.h"
#include "testing.h"

namespace palu {
namespace {

using testing::Distance;
using testing::ErrorOf;
using testing::FrobeniusNorm;

constexpr double kEps = std::numeric_limits<double>::epsilon();

// A random dense model with float64 weights that a test may nudge.
struct TinyModel {
  ModelConfig config;
  ModelWeights weights;
  std::vector<OwnedTensor> owned;
  uint32_t seed = 1;

  TinyModel(int64_t heads, int64_t kv_heads, bool bias, bool qk_norm) {
    config.num_layers = 3;
    config.num_heads = heads;
    config.num_kv_heads = kv_heads;
    config.head_dim = 6;
    config.hidden_size = 20;
    config.intermediate_size = 28;
    config.vocab_size = 31;
    config.qkv_bias = bias;
    config.qk_norm = qk_norm;
    const int64_t hidden = config.hidden_size, d = config.head_dim;
    weights.embedding = Random({config.vocab_size, hidden}, 1.0);
    weights.final_norm = Random({hidden}, 1.0);
    weights.lm_head = Random({config.vocab_size, hidden}, 0.3);
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      LayerWeights w;
      w.input_norm = Random({hidden}, 1.0);
      w.post_norm = Random({hidden}, 1.0);
      w.q = Random({config.q_size(), hidden}, 0.3);
      w.k.dense = Random({config.kv_size(), hidden}, 0.3);
      w.v.dense = Random({config.kv_size(), hidden}, 0.3);
      w.o = Random({hidden, config.q_size()}, 0.3);
      w.gate = Random({config.intermediate_size, hidden}, 0.3);
      w.up = Random({config.intermediate_size, hidden}, 0.3);
      w.down = Random({hidden, config.intermediate_size}, 0.3);
      if (bias) {
        w.q_bias = Random({config.q_size()}, 0.5);
        w.k.bias = Random({config.kv_size()}, 0.5);
        w.v.bias = Random({config.kv_size()}, 0.5);
        w.o_bias = Random({hidden}, 0.5);
        w.gate_bias = Random({config.intermediate_size}, 0.5);
        w.up_bias = Random({config.intermediate_size}, 0.5);
        w.down_bias = Random({hidden}, 0.5);
      }
      if (qk_norm) {
        w.q_norm = Random({d}, 1.0);
        w.k_norm = Random({d}, 1.0);
      }
      weights.layers.push_back(w);
    }
  }

  TensorView Random(Shape shape, double deviation) {
    std::mt19937 engine(seed++);
    std::normal_distribution<double> normal(0.0, deviation);
    owned.emplace_back(DType::kF64, std::move(shape));
    const TensorView view = owned.back().View();
    for (int64_t i = 0; i < view.size(); ++i) Element(view, i) = normal(engine);
    return view;
  }
  static double& Element(const TensorView& view, int64_t i) {
    return const_cast<double*>(view.As<double>())[i];
  }
  std::vector<double> InvFreq() const { return {1.0, 0.2, 0.03}; }
  std::vector<int32_t> Ids(int64_t n) const {
    std::mt19937 engine(7);
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (auto& id : ids) id = static_cast<int32_t>(engine() % config.vocab_size);
    return ids;
  }
};

template <class T>
Matrix<double> ToDouble(MatrixView<const T> x) {
  Matrix<double> out(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) std::copy_n(x.Row(r), x.cols, out.Row(r));
  return out;
}

struct Gradients {
  double loss = 0.0;
  std::map<int64_t, Matrix<double>> dwk, dwv, dk, dv, x;
};

template <class T>
Gradients Differentiate(const TinyModel& model, std::span<const int32_t> ids, int threads) {
  ThreadPool pool(threads);
  CalibrationGraph<T> graph(model.config, model.weights, model.InvFreq(), pool);
  Gradients out;
  out.loss = graph.Differentiate(
      ids, [&](int64_t layer, MatrixView<const T> x) { out.x[layer] = ToDouble(x); },
      [&](int64_t layer, const KvGradients<T>& g) {
        out.dwk[layer] = ToDouble(g.dwk);
        out.dwv[layer] = ToDouble(g.dwv);
        out.dk[layer] = ToDouble(g.dk);
        out.dv[layer] = ToDouble(g.dv);
      });
  return out;
}

struct Case {
  const char* name;
  int64_t heads, kv_heads;
  bool bias, qk_norm;
  int64_t tokens;  // above 256: several query blocks
};

class Gradient : public ::testing::TestWithParam<Case> {
 protected:
  // Central difference along one element. Truncation is step^2 and rounding eps/step, which balance
  // at eps^(1/3); the constant covers the loss's third derivative and the rounding of one pass.
  static double Difference(CalibrationGraph<double>& graph, std::span<const int32_t> ids,
                           const TensorView& view, int64_t i) {
    const double step = std::cbrt(kEps), kept = TinyModel::Element(view, i);
    TinyModel::Element(view, i) = kept + step;
    const double above = graph.Loss(ids);
    TinyModel::Element(view, i) = kept - step;
    const double below = graph.Loss(ids);
    TinyModel::Element(view, i) = kept;
    return (above - below) / (2.0 * step);
  }
  static constexpr double kTolerance = 100.0 * 3.7e-11;  // eps^(2/3) = 3.7e-11
};

TEST_P(Gradient, MatchesFiniteDifferences) {
  const Case c = GetParam();
  TinyModel model(c.heads, c.kv_heads, c.bias, c.qk_norm);
  const auto ids = model.Ids(c.tokens);
  const Gradients gradients = Differentiate<double>(model, ids, 2);
  ThreadPool pool(1);
  CalibrationGraph<double> graph(model.config, model.weights, model.InvFreq(), pool);
  EXPECT_NEAR(graph.Loss(ids), gradients.loss, 100 * kEps * gradients.loss);
  std::mt19937 engine(3);
  for (int64_t layer = 0; layer < model.config.num_layers; ++layer) {
    const LayerWeights& w = model.weights.layers[layer];
    const auto check = [&](const TensorView& view, const Matrix<double>& gradient) {
      ASSERT_EQ(gradient.rows(), view.rows());
      ASSERT_EQ(gradient.cols(), view.cols());
      EXPECT_GT(FrobeniusNorm(gradient), 1e5 * kTolerance);  // the comparison means something
      for (int trial = 0; trial < 8; ++trial) {
        const int64_t i = engine() % view.size();
        EXPECT_NEAR(gradient.data()[i], Difference(graph, ids, view, i),
                    kTolerance * (gradients.loss + 1.0))
            << "layer " << layer << " element " << i;
      }
    };
    check(w.k.dense, gradients.dwk.at(layer));
    check(w.v.dense, gradients.dwv.at(layer));
    if (!c.bias) continue;
    // A bias enters every token's projection, so its gradient is the sum over tokens.
    for (int64_t i : {0, 5}) {
      double dk = 0.0, dv = 0.0;
      for (int64_t r = 0; r < c.tokens; ++r) {
        dk += gradients.dk.at(layer)(r, i);
        dv += gradients.dv.at(layer)(r, i);
      }
      EXPECT_NEAR(dk, Difference(graph, ids, w.k.bias, i), kTolerance * (gradients.loss + 1.0));
      EXPECT_NEAR(dv, Difference(graph, ids, w.v.bias, i), kTolerance * (gradients.loss + 1.0));
    }
  }
}

// Rounding grows at worst with the number of operations a value passes through: about ten per layer
// both ways, each an inner product whose error grows like the root of its length.
TEST_P(Gradient, FloatAgreesWithDouble) {
  const Case c = GetParam();
  const TinyModel model(c.heads, c.kv_heads, c.bias, c.qk_norm);
  const auto ids = model.Ids(c.tokens);
  const Gradients exact = Differentiate<double>(model, ids, 1);
  const Gradients single = Differentiate<float>(model, ids, 3);
  const double tolerance = 2.0 * 10.0 * static_cast<double>(model.config.num_layers) *
                           std::sqrt(static_cast<double>(c.tokens)) *
                           std::numeric_limits<float>::epsilon();
  EXPECT_NEAR(single.loss, exact.loss, tolerance * exact.loss);
  for (int64_t layer = 0; layer < model.config.num_layers; ++layer) {
    const auto close = [&](const Matrix<double>& a, const Matrix<double>& b) {
      EXPECT_LE(Distance(a, b), tolerance * FrobeniusNorm(b)) << "layer " << layer;
    };
    close(single.x.at(layer), exact.x.at(layer));
    close(single.dwk.at(layer), exact.dwk.at(layer));
    close(single.dwv.at(layer), exact.dwv.at(layer));
  }
}

INSTANTIATE_TEST_SUITE_P(CalibrationGraph, Gradient,
                         ::testing::Values(Case{"mha", 3, 3, false, false, 17},
                                           Case{"gqa", 4, 2, false, false, 17},
                                           Case{"bias", 4, 2, true, false, 17},
                                           Case{"qk_norm", 4, 1, false, true, 17},
                                           Case{"long", 2, 1, true, true, 300}),
                         [](const auto& each) { return std::string(each.param.name); });

TEST(CalibrationGraph, CollectsTheSameInputsWithoutTheBackwardPass) {
  const TinyModel model(4, 2, true, true);
  const auto ids = model.Ids(19);
  const Gradients full = Differentiate<double>(model, ids, 1);
  ThreadPool pool(1);
  CalibrationGraph<double> graph(model.config, model.weights, model.InvFreq(), pool);
  int64_t seen = 0;
  graph.CollectInputs(ids, [&](int64_t layer, MatrixView<const double> x) {
    EXPECT_EQ(layer, seen++);
    EXPECT_EQ(Distance(x, full.x.at(layer)), 0.0);
  });
  EXPECT_EQ(seen, model.config.num_layers);
}

TEST(CalibrationGraph, WindowsOfDifferentLengthsDoNotDisturbEachOther) {
  const TinyModel model(4, 2, false, false);
  ThreadPool pool(2);
  CalibrationGraph<float> graph(model.config, model.weights, model.InvFreq(), pool);
  const auto ids = model.Ids(290);
  const double before = graph.Loss(std::span(ids).first(40));
  graph.Loss(ids);
  EXPECT_EQ(graph.Loss(std::span(ids).first(40)), before);
}

TEST(CalibrationGraph, NamesWhatIsWrong) {
  TinyModel model(4, 2, false, false);
  ThreadPool pool(1);
  CalibrationGraph<float> graph(model.config, model.weights, model.InvFreq(), pool);
  const std::vector<int32_t> one{1}, wild{1, 31};
  EXPECT_NE(ErrorOf([&] { graph.Loss(one); }).find("at least 2"), std::string::npos);
  EXPECT_NE(ErrorOf([&] { graph.Loss(wild); }).find("token 31"), std::string::npos);
  EXPECT_THROW(CalibrationGraph<float>(model.config, model.weights, {1.0}, pool), Error);
  model.weights.layers[1].v.up.push_back(model.weights.lm_head);
  EXPECT_NE(ErrorOf([&] {
              CalibrationGraph<float>(model.config, model.weights, model.InvFreq(), pool);
            }).find("layer 1"),
            std::string::npos);
}

// Loss of the model in `directory` on the golden ids, in float.
double LossOf(const std::string& directory, const nlohmann::json& ids) {
  const Model model = Model::Load(testing::Repo(directory));
  const ModelConfig& config = model.config();
  ThreadPool pool(2);
  CalibrationGraph<float> graph(config, model.weights(),
                                InverseFrequencies(config.rope, config.head_dim), pool);
  return graph.Loss(ids.get<std::vector<int32_t>>());
}

nlohmann::json Golden(const std::string& name) {
  std::ifstream in(testing::Repo("tests/data/golden/" + name));
  return nlohmann::json::parse(in);
}

double NegativeMean(const nlohmann::json& logprobs) {
  double sum = 0.0;
  for (double logprob : logprobs) sum -= logprob;
  return sum / static_cast<double>(logprobs.size());
}

// Against the transformers library in float32, which both sides follow to a few float roundings per
// layer; 1e-3 is what a wrong convention exceeds by orders of magnitude.
TEST(CalibrationGraph, LossOfTheTrainedModelMatchesTheGoldenOne) {
  const auto golden = Golden("golden_wiki-7m-mha.json")["logprobs"];
  EXPECT_NEAR(LossOf("models/wiki-7m-mha", golden["ids"]), NegativeMean(golden["next"]), 1e-3);
}

// Grouped queries, llama3 RoPE scaling, QKV bias, QK-norm, sharded files.
TEST(CalibrationGraph, LossOfEveryFamilyMatchesTheGoldenOne) {
  const auto golden = Golden("golden_families.json");
  for (const std::string family : {"llama31", "mistral", "qwen2", "qwen3"}) {
    const double expected = NegativeMean(golden[family]["next_logprob"]);
    EXPECT_NEAR(LossOf("tests/data/models/family-" + family, golden[family]["ids"]), expected,
                1e-3 * std::max(1.0, expected))
        << family;
  }
}

}  // namespace
}  // namespace palu
