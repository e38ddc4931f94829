#include "format/compressed_model.h"

#include <nlohmann/json.hpp>

#include "format/format_fixture.h"
#include "format/model_card.h"
#include "io/expect_has.h"
#include "model/tensor_names.h"

namespace palu {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using testing::ErrorOf;
using testing::ExpectHas;
using testing::FactoredModel;
using testing::TempDir;

TEST(CompressedModel, ConfigKeepsEveryKeyInOrder) {
  TempDir dir;
  const FactoredModel model("family-llama31");
  model.Write(dir.path());
  const auto before = ordered_json::parse(testing::ReadAll(model.source / "config.json"));
  auto after = ordered_json::parse(testing::ReadAll(dir / "config.json"));
  EXPECT_EQ(after["kv_compression"]["version"], 1);
  EXPECT_FALSE(after["kv_compression"]["ranks"].contains(names::VProj(0)));
  after.erase("kv_compression");
  EXPECT_EQ(before.dump(), after.dump());
}

TEST(CompressedModel, ReadsBackWhatWasWritten) {
  TempDir dir;
  const FactoredModel model("family-qwen2");
  model.Write(dir.path());
  const ModelConfig config = LoadConfig(dir.path());
  const KvCompression& kv = config.compression.value();
  EXPECT_EQ(kv.layers[0].k.ranks, model.compression.layers[0].k.ranks);
  EXPECT_EQ(kv.layers[2].v.ranks, model.compression.layers[2].v.ranks);
  EXPECT_FALSE(kv.layers[1].k.factored() || kv.layers[0].v.factored());
  EXPECT_EQ(kv.group_size, 2);
  EXPECT_EQ(kv.ratio, 0.5);
  EXPECT_EQ(kv.search, "uniform");
  EXPECT_EQ(kv.source_model, "org/family-qwen2");

  const TensorStore store = TensorStore::OpenDirectory(dir.path());
  EXPECT_EQ(store.metadata().at("format"), "pt");
  const std::string module = names::KProj(0);
  EXPECT_EQ(store.Find(names::Weight(module)), nullptr);
  const TensorView vt = store.Get(names::VT(module), {8, 128});
  EXPECT_EQ(std::memcmp(vt.data, model.factors[0].k.vt.data(), 8 * 128 * 2), 0);
  const TensorView u = store.Get(names::U(module, 1), {32, 3});
  EXPECT_EQ(std::memcmp(u.data, model.factors[0].k.u[1].data(), 32 * 3 * 2), 0);
  EXPECT_NE(store.Find(names::Bias(module)), nullptr);
}

TEST(CompressedModel, OtherTensorsAreCopiedByteForByte) {
  for (const char* name : {"family-mistral", "family-qwen3"}) {  // shards; one file
    TempDir dir;
    const FactoredModel model(name);
    model.Write(dir.path());
    const TensorStore store = TensorStore::OpenDirectory(dir.path());
    for (const auto& [tensor, before] : model.weights.stored()) {
      if (tensor == names::Weight(names::KProj(0)) || tensor == names::Weight(names::VProj(2))) {
        EXPECT_FALSE(store.stored().contains(tensor));
        continue;
      }
      const StoredTensor& after = store.stored().at(tensor);
      EXPECT_EQ(after.dtype, before.dtype);
      EXPECT_EQ(after.shape, before.shape);
      EXPECT_TRUE(std::ranges::equal(after.bytes, before.bytes)) << tensor;
    }
    EXPECT_EQ(store.stored().size(), model.weights.stored().size() - 2 + 2 * 3);
  }
}

TEST(CompressedModel, CopiesTokenizerFiles) {
  TempDir source, out;
  const FactoredModel model("family-llama31");
  fs::copy(model.source, source.path(), fs::copy_options::recursive);
  std::ofstream(source / "tokenizer.json") << "{}";
  std::ofstream(source / "generation_config.json") << "{\"eos_token_id\": 9}";
  std::ofstream(source / "README.md") << "the dense model's card";
  std::ofstream(source / "pytorch_model.bin") << "weights";
  WriteCompressedModel(
      {source.path(), model.weights, model.config, model.compression, model.factors, "card"},
      out.path());
  EXPECT_EQ(testing::ReadAll(out / "tokenizer.json"), "{}");
  EXPECT_EQ(testing::ReadAll(out / "README.md"), "card");
  EXPECT_EQ(LoadConfig(out.path()).eos_token_ids, (std::vector<int32_t>{2, 9}));
  EXPECT_FALSE(fs::exists(out / "pytorch_model.bin"));
}

TEST(CompressedModel, Refusals) {
  TempDir dir;
  FactoredModel model("family-llama31");
  const auto error = [&] { return ErrorOf([&] { model.Write(dir.path()); }); };
  model.compression.layers[0].k.ranks = {5, 4};
  ExpectHas(error(),
            "tensor model.layers.0.self_attn.k_proj.VT.weight: expected [9, 128], found "
            "[8, 128]");
  model.compression.layers[0].k.ranks = {5};
  ExpectHas(error(), "expected 1 up-projections, found 2");
  model.compression.layers[0].k.ranks = {};
  ExpectHas(error(), "k_proj: expected no factors for a dense projection");
  model.factors.pop_back();
  ExpectHas(error(), "expected ranks and factors of 3 layers, found 3 and 2");
  model.config.compression = model.compression;
  ExpectHas(error(), "expected a dense model, found a compressed one");
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(ModelCard, ListsRanksAndFigures) {
  FactoredModel model("family-llama31");
  model.config.compression = model.compression;
  const std::string card =
      MakeModelCard("Small model", model.config, {{"perplexity | dense", "5.47"}, {"a\nb", "c"}});
  EXPECT_EQ(card.rfind("---\ntags:\n- palu\n", 0), 0u);
  ExpectHas(card, "# Small model\n");
  ExpectHas(card,
            "latents of 71.1 % of the numbers");  // 8 + 9 + 4 * 64 of 6 * 64
  ExpectHas(card, "| 0 | 5, 3 | dense |\n| 1 | dense | dense |\n| 2 | dense | 1, 8 |\n");
  ExpectHas(card, "| perplexity \\| dense | 5.47 |\n| a b | c |\n");
  ExpectHas(card, "- Source model: org/family-llama31\n");
}

}  // namespace
}  // namespace palu
