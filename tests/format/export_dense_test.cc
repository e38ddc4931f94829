#include "format/export_dense.h"

#include <nlohmann/json.hpp>

#include "format/config_text.h"
#include "format/format_fixture.h"
#include "format/rounding.h"
#include "io/expect_has.h"
#include "model/tensor_names.h"

namespace palu {
namespace {

using nlohmann::ordered_json;
using testing::ErrorOf;
using testing::ExpectHas;
using testing::FactoredModel;
using testing::TempDir;

// W = blockdiag(U_i) A by plain loops.
std::vector<double> Product(const Factors& factors) {
  const Matrix<double> a = ToDouble(factors.vt.View());
  std::vector<double> w;
  int64_t first = 0;
  for (const OwnedTensor& tensor : factors.u) {
    const Matrix<double> u = ToDouble(tensor.View());
    for (int64_t r = 0; r < u.rows(); ++r) {
      for (int64_t c = 0; c < a.cols(); ++c) {
        double sum = 0;
        for (int64_t k = 0; k < u.cols(); ++k) sum += u(r, k) * a(first + k, c);
        w.push_back(sum);
      }
    }
    first += u.cols();
  }
  return w;
}

TEST(ExportDense, MultipliesFactorsAndRestoresTheConfig) {
  TempDir compressed, dense;
  const FactoredModel model("family-qwen2");
  model.Write(compressed.path());
  ThreadPool pool(2);
  ExportDense(compressed.path(), dense.path(), std::nullopt, pool);

  const auto before = ordered_json::parse(testing::ReadAll(model.source / "config.json"));
  const auto after = ordered_json::parse(testing::ReadAll(dense / "config.json"));
  EXPECT_EQ(before.dump(), after.dump());

  const TensorStore store = TensorStore::OpenDirectory(dense.path());
  EXPECT_EQ(store.stored().size(), model.weights.stored().size());
  const std::vector<double> expected = Product(model.factors[0].k);
  const TensorView w = store.Get(names::Weight(names::KProj(0)), {64, 128});
  ASSERT_EQ(w.dtype, DType::kBF16);
  for (size_t i = 0; i < expected.size(); ++i) {  // sums of k/4096 are exact in float
    ASSERT_EQ(w.As<BFloat16>()[i].bits, ToBFloat16(static_cast<float>(expected[i])).bits) << i;
  }
  const std::string bias = names::Bias(names::KProj(0));
  EXPECT_TRUE(
      std::ranges::equal(store.stored().at(bias).bytes, model.weights.stored().at(bias).bytes));
}

TEST(ExportDense, ConvertsToAnotherType) {
  TempDir compressed, dense;
  const FactoredModel model("family-llama31");
  model.Write(compressed.path());
  ThreadPool pool(1);
  ExportDense(compressed.path(), dense.path(), DType::kF32, pool);
  const TensorStore store = TensorStore::OpenDirectory(dense.path());
  for (const auto& [name, view] : store.tensors()) EXPECT_EQ(view.dtype, DType::kF32) << name;
  const std::vector<double> expected = Product(model.factors[2].v);
  const TensorView w = store.Get(names::Weight(names::VProj(2)), {64, 128});
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(w.As<float>()[i], expected[i]);
  const auto config = ordered_json::parse(testing::ReadAll(dense / "config.json"));
  EXPECT_EQ(config["torch_dtype"], "float32");
}

// A directory as the published code writes it, with biases per group.
TEST(ExportDense, ReadsPublishedDirectories) {
  TempDir published, dense;
  const FactoredModel model("family-qwen2");
  auto config = ordered_json::parse(testing::ReadAll(model.source / "config.json"));
  config["model_type"] = "paluqwen2";
  config["architectures"] = {"PaluQwen2ForCausalLM"};
  config["original_model_name_or_path"] = "org/model";
  config["head_wise_ranks"] = {{names::KProj(0), {5, 3}}};
  std::ofstream(published / "config.json") << config;

  const std::string module = names::KProj(0);
  const TensorView bias = model.weights.Get(names::Bias(module), {64});
  std::vector<NamedTensor> tensors{{names::VT(module), model.factors[0].k.vt.View()}};
  for (int64_t i = 0; i < 2; ++i) {
    tensors.push_back({names::U(module, i), model.factors[0].k.u[static_cast<size_t>(i)].View()});
    tensors.push_back({names::UBias(module, i), bias.Rows(i * 32, 32)});
  }
  for (const auto& [name, view] : model.weights.tensors()) {
    if (!name.starts_with(module)) tensors.push_back({name, view});
  }
  WriteShardedSafetensors(published.path(), tensors, {});

  ThreadPool pool(1);
  ExportDense(published.path(), dense.path(), std::nullopt, pool);
  const TensorStore store = TensorStore::OpenDirectory(dense.path());
  EXPECT_EQ(store.stored().size(), model.weights.stored().size());
  const TensorView joined = store.Get(names::Bias(module), {64});
  EXPECT_EQ(std::memcmp(joined.data, bias.data, 128), 0);
  const auto after = ordered_json::parse(testing::ReadAll(dense / "config.json"));
  const auto before = ordered_json::parse(testing::ReadAll(model.source / "config.json"));
  EXPECT_EQ(after.dump(), before.dump());
}

TEST(ExportDense, Refusals) {
  TempDir dir, compressed;
  ThreadPool pool(1);
  ExpectHas(ErrorOf([&] {
              ExportDense(testing::Repo("tests/data/models/family-qwen2"), dir.path(), {}, pool);
            }),
            "expected a compressed model, found a dense one");
  FactoredModel model("family-llama31");
  model.Write(compressed.path());
  const std::string text = testing::ReadAll(compressed / "config.json");
  ExpectHas(ErrorOf([&] { WithCompression(text, "config.json", model.compression); }),
            "field kv_compression: expected none, found one");
  auto config = ordered_json::parse(text);
  config["kv_compression"]["ranks"][names::KProj(1)] = {1, 1};
  std::ofstream(compressed / "config.json") << config;
  ExpectHas(ErrorOf([&] { ExportDense(compressed.path(), dir.path(), {}, pool); }),
            "k_proj.VT.weight: expected [2, 128], found no such tensor");
}

TEST(Rounding, RoundsOnce) {
  // Just above half way between two bfloat16: float rounding alone would land on the tie.
  const double above = 1.0 + 0x1p-8 + 0x1p-40, below = 1.0 + 3 * 0x1p-8 - 0x1p-40;
  Matrix<double> values(1, 2);
  values(0, 0) = above;
  values(0, 1) = below;
  const OwnedTensor rounded = Rounded(values, DType::kBF16, {2});
  EXPECT_EQ(ToFloat(rounded.View().As<BFloat16>()[0]), 1.0f + 0x1p-7f);
  EXPECT_EQ(ToFloat(rounded.View().As<BFloat16>()[1]), 1.0f + 0x1p-7f);
}

}  // namespace
}  // namespace palu
