// The device's forward pass against log-probabilities of the transformers library.
#include <cmath>
#include <optional>

#include "golden.h"
#include "tensor/device.h"

namespace palu {
namespace {

using testing::Golden;
using testing::Ids;

constexpr double kFloat32Bound = 1e-3;  // the acceptance bounds of every golden value
constexpr double kBFloat16Bound = 2e-2;
// Rows rounded to BF16 before every product, which is not the default: eight times as coarse.
constexpr double kBFloat16RowsBound = 8 * kBFloat16Bound;

ScoreOptions Options(std::optional<DType> weights) {
  ScoreOptions options;
  options.cache_format = weights == DType::kF32 ? DType::kF32 : DType::kF16;
  options.transformer.weight_dtype = weights;
  return options;
}

class CudaGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  }

  void ExpectLogProbs(const Model& model, std::optional<DType> weights,
                      const std::vector<TokenId>& ids, const nlohmann::json& next, double bound) {
    const std::string name = weights ? std::string(Name(*weights)) : "default";
    Scorer scorer(model, exec_, Options(weights));
    const TokenScores scores = scorer.Score(ids);
    ASSERT_EQ(scores.logprobs.size(), next.size());
    double worst = 0;
    for (size_t i = 0; i < next.size(); ++i) {
      const double difference = std::abs(scores.logprobs[i] - next[i].get<double>());
      if (!(difference <= worst)) worst = difference;  // NaN stays
    }
    EXPECT_LE(worst, bound) << name;
    std::printf("%s: worst |log-probability - golden| = %.2e\n", name.c_str(), worst);
  }

  void ExpectWikiModel(const std::filesystem::path& directory, const std::string& golden_file) {
    const Model model = Model::Load(directory);
    const nlohmann::json golden = Golden(golden_file);
    const nlohmann::json& logprobs = golden["logprobs"];
    const auto ids = Ids(logprobs["ids"]);
    ExpectLogProbs(model, DType::kF32, ids, logprobs["next"], kFloat32Bound);
    ASSERT_EQ(model.weights().embedding.dtype, DType::kBF16);
    ExpectLogProbs(model, {}, ids, logprobs["next"], kBFloat16Bound);
    ExpectLogProbs(model, DType::kF16, ids, logprobs["next"], kBFloat16Bound);
    ExpectLogProbs(model, DType::kBF16, ids, logprobs["next"], kBFloat16RowsBound);
    for (const auto& greedy : golden["greedy"]) {
      EngineOptions options;
      options.cache_format = DType::kF32;
      options.transformer.weight_dtype = DType::kF32;
      EXPECT_EQ(testing::Greedy(model, Ids(greedy["prompt_ids"]),
                                static_cast<int64_t>(greedy["ids"].size()), options, exec_.device),
                Ids(greedy["ids"]))
          << greedy["prompt"];
    }
  }

  ThreadPool pool_{2};
  Exec exec_{.pool = pool_, .device = {Device::Kind::kCuda}};
};

TEST_F(CudaGolden, Wiki7mMha) {
  ExpectWikiModel(testing::Repo("models/wiki-7m-mha"), "golden_wiki-7m-mha.json");
}

TEST_F(CudaGolden, Wiki18mGqa) {
  const auto directory = testing::Shared("models/wiki-18m-gqa");
  PALU_SKIP_WITHOUT(directory);
  ExpectWikiModel(directory, "golden_wiki-18m-gqa.json");
}

TEST_F(CudaGolden, FamiliesInFloat32) {
  for (const std::string family : {"llama31", "mistral", "qwen2", "qwen3"}) {
    SCOPED_TRACE(family);
    const Model model = Model::Load(testing::Repo("tests/data/models/family-" + family));
    const nlohmann::json golden = Golden("golden_families.json")[family];
    const auto ids = Ids(golden["ids"]);
    ExpectLogProbs(model, DType::kF32, ids, golden["next_logprob"], kFloat32Bound);

    Scorer scorer(model, exec_, Options(DType::kF32));
    const auto expected = golden["last_logits_at_positions_5000"].get<std::vector<double>>();
    const double worst = testing::WorstLastLogit(scorer, ids, 5000, expected);
    EXPECT_LE(worst, kFloat32Bound);
  }
}

}  // namespace
}  // namespace palu
