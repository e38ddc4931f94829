#include "model/weights.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "compressed_models.h"
#include "model/hf_config.h"
#include "model/tensor_names.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::ErrorOf;
using testing::TempDir;

std::filesystem::path Fixture(const std::string& name) {
  return testing::Repo("tests/data/models/" + name);
}

// Shapes by name, of the table and of a directory.
std::map<std::string, Shape> TableShapes(const ModelConfig& config) {
  ModelWeights weights;
  std::map<std::string, Shape> shapes;
  for (const WeightSlot& slot : WeightTable(config, weights)) {
    EXPECT_TRUE(shapes.emplace(slot.name, slot.shape).second) << slot.name;
    EXPECT_NE(slot.view, nullptr);
  }
  return shapes;
}

std::map<std::string, Shape> FileShapes(const std::filesystem::path& directory) {
  std::map<std::string, Shape> shapes;
  const TensorStore store = TensorStore::OpenDirectory(directory);
  for (const auto& [name, tensor] : store.stored()) shapes[name] = tensor.shape;
  return shapes;
}

int64_t FileBytes(const std::filesystem::path& directory) {
  int64_t bytes = 0;
  const TensorStore store = TensorStore::OpenDirectory(directory);
  for (const auto& [name, tensor] : store.stored()) bytes += std::ssize(tensor.bytes);
  return bytes;
}

int64_t ClassBytes(const Model& model) {
  int64_t total = 0;
  for (const auto& [weight_class, bytes] : model.BytesByClass()) total += bytes;
  return total;
}

class WeightTableOf : public ::testing::TestWithParam<const char*> {};

TEST_P(WeightTableOf, CoversEveryTensorOfTheFile) {
  const auto directory = Fixture(GetParam());
  EXPECT_EQ(TableShapes(LoadConfig(directory)), FileShapes(directory));
  const Model model = Model::Load(directory);
  EXPECT_EQ(ClassBytes(model), FileBytes(directory));
  for (const auto& [weight_class, view] : model.views()) EXPECT_TRUE(view);
  EXPECT_EQ(model.weights().lm_head.data == model.weights().embedding.data,
            model.config().tied_embeddings);
}

TEST_P(WeightTableOf, CoversTheCompressedForm) {
  TempDir dir;
  const Model model = testing::MakeCompressed(Fixture(GetParam()), dir / "model", {.ratio = 0.5});
  EXPECT_EQ(TableShapes(model.config()), FileShapes(dir / "model"));
  EXPECT_EQ(ClassBytes(model), FileBytes(dir / "model"));
  EXPECT_TRUE(model.weights().layers[0].k.factored());
  EXPECT_FALSE(model.weights().layers[0].k.dense);
}

INSTANTIATE_TEST_SUITE_P(Families, WeightTableOf,
                         ::testing::Values("stories260k", "family-llama31", "family-mistral",
                                           "family-qwen2", "family-qwen3"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The model without one tensor, in another directory.
void DropTensor(const std::filesystem::path& from, const std::filesystem::path& to,
                const std::string& dropped) {
  const TensorStore store = TensorStore::OpenDirectory(from);
  std::vector<NamedTensor> kept;
  for (const auto& [name, view] : store.tensors()) {
    if (name != dropped) kept.push_back({name, view});
  }
  ASSERT_EQ(kept.size() + 1, store.tensors().size());
  std::filesystem::create_directories(to);
  WriteShardedSafetensors(to, kept, {});
  std::filesystem::copy_file(from / "config.json", to / "config.json");
}

TEST(Weights, MissingTensor) {
  TempDir dir;
  const std::string norm = names::Weight(names::KNorm(1));
  DropTensor(Fixture("family-qwen3"), dir / "m", norm);
  EXPECT_EQ(ErrorOf([&] { Model::Load(dir / "m"); }),
            (dir / "m").string() + ": tensor " + norm + ": expected [32], found no such tensor");
}

TEST(Weights, MissingBiasOfDenseAndFactoredProjections) {
  TempDir dir;
  const std::string bias = names::Bias(names::VProj(2));
  DropTensor(Fixture("family-qwen2"), dir / "dense", bias);
  EXPECT_EQ(
      ErrorOf([&] { Model::Load(dir / "dense"); }),
      (dir / "dense").string() + ": tensor " + bias + ": expected [64], found no such tensor");
  testing::MakeCompressed(Fixture("family-qwen2"), dir / "c", {.ratio = 0.5});
  DropTensor(dir / "c", dir / "factored", bias);
  EXPECT_EQ(ErrorOf([&] { Model::Load(dir / "factored"); }),
            (dir / "factored").string() + ": tensor " + names::UBias(names::VProj(2), 0) +
                ": expected [32], found no such tensor");
}

TEST(Weights, WrongShape) {
  TempDir dir;
  std::filesystem::copy(Fixture("family-llama31"), dir / "m");
  json config = json::parse(testing::ReadAll(dir / "m" / "config.json"));
  config["vocab_size"] = 513;
  std::ofstream(dir / "m" / "config.json") << config;
  EXPECT_EQ(ErrorOf([&] { Model::Load(dir / "m"); }),
            (dir / "m").string() +
                ": tensor model.embed_tokens.weight: expected [513, 128], found [512, 128]");
}

TEST(Weights, RandomIsReproducible) {
  const ModelConfig config = LoadConfig(Fixture("family-qwen3"));
  const Model a = Model::Random(config, DType::kBF16, 7),
              b = Model::Random(config, DType::kBF16, 7);
  const Model other = Model::Random(config, DType::kBF16, 8);
  ASSERT_EQ(a.views().size(), b.views().size());
  size_t different = 0;
  for (size_t i = 0; i < a.views().size(); ++i) {
    const TensorView &x = a.views()[i].second, &y = b.views()[i].second;
    const TensorView& z = other.views()[i].second;
    const auto bytes = static_cast<size_t>(x.bytes());
    EXPECT_EQ(x.dtype, DType::kBF16);
    EXPECT_EQ(std::memcmp(x.data, y.data, bytes), 0) << i;
    different += std::memcmp(x.data, z.data, bytes) != 0;
    if (a.views()[i].first == WeightClass::kNorm) {
      for (int64_t j = 0; j < x.size(); ++j) ASSERT_EQ(ToFloat(x.As<BFloat16>()[j]), 1.0f);
    }
  }
  EXPECT_EQ(different, static_cast<size_t>(std::count_if(
                           a.views().begin(), a.views().end(),
                           [](const auto& v) { return v.first != WeightClass::kNorm; })));
}

TEST(Weights, BytesByClass) {
  const Model model = Model::Load(Fixture("stories260k"));
  std::map<std::string, int64_t> bytes;
  for (const auto& [weight_class, n] : model.BytesByClass()) {
    bytes[std::string(Name(weight_class))] = n;
  }
  EXPECT_EQ(bytes["embedding"], 4 * 512 * 64);
  EXPECT_EQ(bytes.count("lm_head"), 0u);  // tied
  EXPECT_EQ(bytes["q_proj"], 4 * 5 * 64 * 64);
  EXPECT_EQ(bytes["k_proj"], 4 * 5 * 32 * 64);
  EXPECT_EQ(bytes["v_proj"], 4 * 5 * 32 * 64);
  EXPECT_EQ(bytes["o_proj"], 4 * 5 * 64 * 64);
  EXPECT_EQ(bytes["mlp"], 4 * 5 * 3 * 64 * 172);
  EXPECT_EQ(bytes["norm"], 4 * (5 * 2 + 1) * 64);
}

}  // namespace
}  // namespace palu
