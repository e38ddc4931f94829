#include <nlohmann/json.hpp>

#include "io/expect_has.h"
#include "io/hf_index.h"
#include "io/safetensors.h"
#include "testing.h"

namespace palu {
namespace {

using testing::ErrorOf;
using testing::ExpectHas;
using testing::Repo;
using testing::TempDir;

TEST(TensorStore, ReadsOneFile) {
  const TensorStore store = TensorStore::OpenDirectory(Repo("tests/data/models/family-qwen2"));
  const TensorView& bias = store.Get("model.layers.0.self_attn.k_proj.bias", {64});
  EXPECT_EQ(bias.dtype, DType::kBF16);
  EXPECT_EQ(store.Find("lm_head.weight"), nullptr);  // tied
}

TEST(TensorStore, ReadsShards) {
  const TensorStore store = TensorStore::OpenDirectory(Repo("tests/data/models/family-mistral"));
  EXPECT_EQ(store.tensors().size(), 3u * 9 + 3);
  store.Get("lm_head.weight", {512, 128});
  store.Get("model.layers.2.self_attn.q_proj.weight", {256, 128});
}

TEST(TensorStore, GetNamesWhatIsWrong) {
  const TensorStore store = TensorStore::OpenDirectory(Repo("tests/data/models/family-mistral"));
  ExpectHas(ErrorOf([&] {
              store.Get("lm_head.weight", {512, 64});
            }),
            "family-mistral: tensor lm_head.weight: expected [512, 64], found [512, 128]");
  ExpectHas(ErrorOf([&] { store.Get("nothing", {1}); }),
            "tensor nothing: expected [1], found no such tensor");
}

class Shards : public ::testing::Test {
 protected:
  void Index(const std::string& weight_map) {
    std::ofstream(dir_ / "model.safetensors.index.json") << "{\"weight_map\":" << weight_map << "}";
  }
  std::string Error() {
    return ErrorOf([&] { TensorStore::OpenDirectory(dir_.path()); });
  }
  void Shard(const std::string& name, const std::string& tensor) {
    const std::vector<float> data{1, 2};
    const NamedTensor one{tensor, {data.data(), DType::kF32, {2}, kCpu}};
    WriteSafetensors(dir_ / name, std::vector{one}, {});
  }
  TempDir dir_;
};

TEST_F(Shards, OnlyMappedTensorsCount) {
  Shard("a.safetensors", "x");
  Shard("b.safetensors", "y");
  Index(R"({"x": "a.safetensors"})");
  EXPECT_EQ(TensorStore::OpenDirectory(dir_.path()).tensors().size(), 1u);
}

TEST_F(Shards, Refusals) {
  ExpectHas(Error(), "expected model.safetensors or model.safetensors.index.json, found neither");
  Shard("a.safetensors", "x");
  Index(R"({"x": "a.safetensors", "y": "a.safetensors"})");
  ExpectHas(Error(), "a.safetensors: tensor y: the index expects it here, found nothing");
  Index(R"({"x": "a.safetensors", "y": "b.safetensors"})");
  ExpectHas(Error(), "shard b.safetensors is missing, 1 of its tensors too");
  for (const char* name : {"../a.safetensors", "/a.safetensors", "sub/a.safetensors", "", ".",
                           ".safetensors", "a.bin", "a\\\\b.safetensors", "a\\u0000.safetensors"}) {
    Index(std::string(R"({"x": ")") + name + "\"}");
    ExpectHas(Error(), "field weight_map.x: expected a plain .safetensors file name");
  }
  Index(R"({"x": 3})");
  ExpectHas(Error(), "expected a plain .safetensors file name, found 3");
  Index("{}");
  ExpectHas(Error(), "field weight_map: expected tensors, found none");
  Index("[]");
  ExpectHas(Error(), "field weight_map: expected an object");
  Index("");
  ExpectHas(Error(), "model.safetensors.index.json: not valid JSON");
  ExpectHas(ErrorOf([&] { TensorStore::OpenDirectory(dir_ / "none"); }), "no such directory");
}

}  // namespace
}  // namespace palu
