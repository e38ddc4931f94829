#include <cmath>
#include <cstring>

#include "model/weights.h"
#include "ops/convert.h"
#include "testing.h"

namespace palu {
namespace {

ModelConfig Small() {
  ModelConfig config;
  config.hidden_size = 256;
  config.intermediate_size = 512;
  config.num_layers = 2;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_dim = 32;
  config.vocab_size = 2000;
  return config;
}

TEST(RandomWeights, AreTheSameOnAnyNumberOfThreads) {
  ThreadPool pool(3);
  const Model serial = Model::Random(Small(), DType::kBF16, 5);
  const Model parallel = Model::Random(Small(), DType::kBF16, 5, &pool);
  const Model other = Model::Random(Small(), DType::kBF16, 6, &pool);
  const auto same = [](const Model& a, const Model& b, size_t i) {
    const TensorView &x = a.views()[i].second, &y = b.views()[i].second;
    return x.bytes() == y.bytes() &&
           std::memcmp(x.data, y.data, static_cast<size_t>(x.bytes())) == 0;
  };
  ASSERT_EQ(serial.views().size(), parallel.views().size());
  for (size_t i = 0; i < serial.views().size(); ++i) EXPECT_TRUE(same(serial, parallel, i)) << i;
  EXPECT_FALSE(same(serial, other, 0));
}

TEST(RandomWeights, HaveTheStatedSpread) {
  const Model model = Model::Random(Small(), DType::kF32, 5);
  const TensorView& q = model.weights().layers[1].q;
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < q.size(); ++i) {
    const double x = q.As<float>()[i];
    sum += x;
    squares += x * x;
  }
  const auto n = static_cast<double>(q.size());
  // Five standard errors: of a mean 0.02 / sqrt(n), of a standard deviation less than that.
  EXPECT_NEAR(sum / n, 0, 5 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(squares / n), 0.02, 5 * 0.02 / std::sqrt(n));
  EXPECT_EQ(model.weights().final_norm.As<float>()[7], 1.0f);
}

TEST(RandomWeights, CompressedFormSharesWhatDidNotChange) {
  ThreadPool pool(2);
  const Model dense = Model::Random(Small(), DType::kBF16, 5, &pool);
  KvCompression compression;
  compression.group_size = 2;
  compression.layers = {{{{16, 32}}, {}}, {{}, {{32, 32}}}};
  const Model compressed = Model::RandomCompressed(dense, compression, 6, &pool);
  const LayerWeights &d = dense.weights().layers[0], &c = compressed.weights().layers[0];
  EXPECT_EQ(c.q.data, d.q.data);
  EXPECT_EQ(c.down.data, d.down.data);
  EXPECT_EQ(c.v.dense.data, d.v.dense.data);
  EXPECT_EQ(compressed.weights().embedding.data, dense.weights().embedding.data);
  EXPECT_FALSE(c.k.dense);
  EXPECT_EQ(c.k.down.shape, (Shape{48, 256}));
  ASSERT_EQ(c.k.up.size(), 2u);
  EXPECT_EQ(c.k.up[1].shape, (Shape{64, 32}));
  EXPECT_EQ(c.k.up[1].dtype, DType::kBF16);
  EXPECT_TRUE(compressed.weights().layers[1].v.factored());
  // The bytes are those of the compressed model alone, shared or not.
  const auto total = [](const Model& model) {
    int64_t sum = 0;
    for (const auto& [weight_class, bytes] : model.BytesByClass()) sum += bytes;
    return sum;
  };
  const int64_t removed = 2 * 128 * 256, added = 48 * 256 + 64 * 48 + 64 * 256 + 64 * 64;
  EXPECT_EQ(total(compressed), total(dense) + 2 * (added - removed));
}

}  // namespace
}  // namespace palu
