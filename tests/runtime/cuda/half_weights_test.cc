// When a BF16 checkpoint is computed in F16.
#include "runtime/cuda/half_weights.h"

#include <cmath>

#include "ops/cuda/cuda_testing.h"
#include "runtime/kv_cache.h"
#include "testing.h"

namespace palu {
namespace {

class CudaHalfWeights : public ::testing::Test {
 protected:
  void SetUp() override {
    PALU_SKIP_WITHOUT_DEVICE();
    model_.emplace(Model::Load(testing::Repo("models/wiki-7m-mha")));
  }
  cuda::DeviceWeights Upload(std::optional<DType> dtype) {
    const KvCache cache(model_->config(), DType::kF16, 0, {Device::Kind::kCuda});
    return cuda::UploadWeights(*model_, cache.layout(), dtype, nullptr);
  }
  // Every element of a BF16 or F32 tensor.
  static void Fill(const cuda::DeviceTensor& tensor, int64_t n, float value) {
    const DType dtype = tensor.Matrix().dtype;
    const auto bytes = testing::Stored(std::vector<float>(static_cast<size_t>(n), value), dtype);
    cuda::Check(cudaMemcpy(tensor.data(), bytes.data(), bytes.size(), cudaMemcpyDefault),
                "filling");
  }

  std::optional<Model> model_;
};

TEST_F(CudaHalfWeights, ATrainedModelIsComputedInF16UnlessAskedOtherwise) {
  const cuda::DeviceWeights half = Upload({});
  EXPECT_EQ(half.dtype, DType::kF16);
  EXPECT_EQ(half.embedding.Matrix().dtype, DType::kF16);
  for (const cuda::DeviceLayer& layer : half.layers) {
    EXPECT_EQ(layer.down.Matrix().dtype, DType::kF16);
  }
  EXPECT_EQ(Upload(DType::kBF16).dtype, DType::kBF16);
}

TEST_F(CudaHalfWeights, WeightsOutOfRangeStayAsTheyAre) {
  cuda::DeviceWeights weights = Upload(DType::kBF16);
  const auto matrix = weights.layers[2].o.Matrix();
  Fill(weights.layers[2].o, matrix.rows * matrix.cols, 1e6f);
  EXPECT_FALSE(cuda::TakeHalf(model_->config(), weights, nullptr));
  EXPECT_EQ(weights.dtype, DType::kBF16);
  EXPECT_EQ(weights.embedding.Matrix().dtype, DType::kBF16);
}

TEST_F(CudaHalfWeights, WeightsBelowF16sNumbersStayAsTheyAre) {
  cuda::DeviceWeights weights = Upload(DType::kBF16);
  const auto matrix = weights.layers[0].down.Matrix();
  Fill(weights.layers[0].down, matrix.rows * matrix.cols, 0x1.1p-23f);  // a 16th from 2^-23
  EXPECT_FALSE(cuda::TakeHalf(model_->config(), weights, nullptr));
}

TEST_F(CudaHalfWeights, NormsThatCouldOverflowRowsKeepBF16) {
  cuda::DeviceWeights weights = Upload(DType::kBF16);
  Fill(weights.layers[1].input_norm, model_->config().hidden_size, 1e4f);  // 16 times that
  EXPECT_FALSE(cuda::TakeHalf(model_->config(), weights, nullptr));
}

TEST_F(CudaHalfWeights, LargeGatesAreScaledByAPowerOfTwo) {
  cuda::DeviceWeights weights = Upload(DType::kBF16);
  const auto matrix = weights.layers[3].gate_up.Matrix();
  Fill(weights.layers[3].gate_up, matrix.rows * matrix.cols, 64.0f);
  Fill(weights.layers[3].post_norm, matrix.cols, 1.0f);
  ASSERT_TRUE(cuda::TakeHalf(model_->config(), weights, nullptr));
  // Both factors are at most 64 sqrt(k) sqrt(k) = 2^14; the least power of 2 that fits 2^28.
  ASSERT_EQ(matrix.cols, 256);
  EXPECT_EQ(weights.layers[3].gated_scale, 0x1p-13f);
  EXPECT_EQ(weights.layers[0].gated_scale, 1.0f);
}

}  // namespace
}  // namespace palu
