// A compressed model's divergence measured on the device against the CPU's.
#include "eval/divergence.h"

#include <cmath>

#include "compressed_models.h"
#include "golden.h"
#include "tensor/device.h"

namespace palu {
namespace {

using testing::ErrorOf;

class CudaDivergenceOfModels : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
    const auto golden = testing::Ids(testing::Golden("golden_stories260k.json")["greedy_from_bos"]);
    ids_.assign(golden.begin(), golden.begin() + 70);
  }

  Scorer MakeScorer(const Model& model, Device device) {
    ScoreOptions options{.cache_format = DType::kF32, .chunk_tokens = 33, .transformer = {}};
    options.transformer.weight_dtype = DType::kF32;
    return Scorer(model, {.pool = pool_, .device = device}, options);
  }

  testing::TempDir dir_;
  Model dense_ = Model::Load(testing::Repo("tests/data/models/stories260k"));
  Model compressed_ = testing::MakeCompressed(testing::Repo("tests/data/models/stories260k"),
                                              dir_ / "compressed", {.dtype = DType::kF32});
  ThreadPool pool_{2};
  std::vector<TokenId> ids_;
};

constexpr Device kCudaDevice{Device::Kind::kCuda};

// Log-probabilities are within `delta`, the acceptance bound in float32, of the CPU's, so each term
// p (log p - log q) of a divergence is within a factor e^delta and p 2 delta.
TEST_F(CudaDivergenceOfModels, MatchTheCpu) {
  constexpr double kDelta = 1e-3;
  Scorer dense = MakeScorer(dense_, kCpu), compressed = MakeScorer(compressed_, kCpu);
  const std::vector<RowDivergence> expected = CompareWindow(dense, compressed, ids_);
  Scorer device_dense = MakeScorer(dense_, kCudaDevice);
  Scorer device_compressed = MakeScorer(compressed_, kCudaDevice);
  const std::vector<RowDivergence> found = CompareWindow(device_dense, device_compressed, ids_);
  ASSERT_EQ(found.size(), ids_.size() - 1);
  double mean = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_NEAR(found[i].p_logprob, expected[i].p_logprob, kDelta);
    EXPECT_NEAR(found[i].q_logprob, expected[i].q_logprob, kDelta);
    // sum p |log p - log q| is at most the divergence plus 2 / e (the negative part of x log x).
    EXPECT_NEAR(found[i].kl, expected[i].kl,
                std::expm1(kDelta) * (expected[i].kl + 2 / std::exp(1.0)) + 2 * kDelta);
    mean += found[i].kl / static_cast<double>(found.size());
  }
  EXPECT_GT(mean, 0.01);
  EXPECT_EQ(Divergence(device_dense, device_dense, ids_, 35).kl_max, 0);
}

TEST_F(CudaDivergenceOfModels, ModelsOnTwoDevicesAreRefused) {
  Scorer host = MakeScorer(dense_, kCpu), device = MakeScorer(dense_, kCudaDevice);
  EXPECT_EQ(ErrorOf([&] { CompareWindow(device, host, ids_); }),
            "comparing two models: expected both on cuda:0");
  EXPECT_EQ(ErrorOf([&] { CompareWindow(host, device, ids_); }),
            "comparing two models: expected both on the CPU");
}

}  // namespace
}  // namespace palu
