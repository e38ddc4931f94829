// The kv_compression section and the published code's head_wise_ranks.
#include <nlohmann/json.hpp>

#include "model/hf_config.h"
#include "ops/frequency_split.h"
#include "testing.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::ErrorOf;

constexpr const char* kK0 = "model.layers.0.self_attn.k_proj";
constexpr const char* kV2 = "model.layers.2.self_attn.v_proj";

json Dense(const std::string& model = "family-llama31") {  // 4 KV heads of 16, 3 layers
  return json::parse(
      testing::ReadAll(testing::Repo("tests/data/models/" + model + "/config.json")));
}

json Section() {
  return {{"method", "palu"},
          {"version", 1},
          {"group_size", 2},
          {"ratio", 0.5},
          {"search", "fisher"},
          {"decompose", "whitened"},
          {"rank_multiple", 16},
          {"source_model", "m"},
          {"calibration", "8 windows"},
          {"ranks", {{kK0, {16, 8}}, {kV2, {32, 1}}}}};
}

ModelConfig Parse(const json& config) { return ParseConfig(config.dump(), "config.json"); }

TEST(HfCompression, OwnSection) {
  json config = Dense();
  config["kv_compression"] = Section();
  config["kv_compression"]["added_later"] = 1;  // readers of version 1 ignore what they do not know
  const ModelConfig model = Parse(config);
  EXPECT_EQ(model.model_type, "llama");
  const KvCompression& kv = model.compression.value();
  EXPECT_EQ(kv.method, "palu");
  EXPECT_EQ(kv.version, 1);
  EXPECT_EQ(kv.group_size, 2);
  EXPECT_EQ(kv.ratio, 0.5);
  EXPECT_EQ(kv.search, "fisher");
  EXPECT_EQ(kv.decompose, "whitened");
  EXPECT_EQ(kv.rank_multiple, 16);
  EXPECT_EQ(kv.source_model, "m");
  EXPECT_EQ(kv.calibration, "8 windows");
  ASSERT_EQ(kv.layers.size(), 3u);
  EXPECT_EQ(model.Ranks(0).k.ranks, (std::vector<int64_t>{16, 8}));
  EXPECT_FALSE(model.Ranks(0).v.factored());  // absent: dense
  EXPECT_EQ(model.Ranks(2).v.total(), 33);
}

json TieredSection() {
  constexpr const char* kV0 = "model.layers.0.self_attn.v_proj";
  json section = Section();
  section["version"] = 4;
  section["budget"] = 1.5;
  section["centered"] = true;
  section["predicted_loss"] = 0.01;
  section["ranks"] = {{kK0, {48, 64}}, {kV0, {48, 64}}, {kV2, {16, 16}}};
  section["shared_latents"] = {0};
  section["tiers"] = {{kK0, {{"per_group", {2, 1}}, {"widths", {16, 32, 64}}, {"bits", {8, 3, 2}}}},
                      {kV2, {{"per_group", {1, 1}}, {"widths", {16, 16}}, {"bits", {4, 4}}}}};
  return section;
}

TEST(HfCompression, TieredSection) {
  json config = Dense();
  config["kv_compression"] = TieredSection();
  const ModelConfig model = Parse(config);
  const KvCompression& kv = model.compression.value();
  EXPECT_TRUE(kv.tiered);
  EXPECT_TRUE(kv.centered);
  EXPECT_EQ(kv.budget, 1.5);
  EXPECT_EQ(kv.predicted_loss, 0.01);
  const LayerRanks first = model.Ranks(0), last = model.Ranks(2);
  EXPECT_TRUE(first.shared);
  EXPECT_FALSE(last.shared);
  const std::vector<std::vector<LatentTier>> tiers{{{16, 8}, {32, 3}}, {{64, 2}}};
  EXPECT_EQ(first.k.tiers, tiers);
  EXPECT_EQ(first.v.tiers, tiers);
  EXPECT_EQ(last.v.tiers, (std::vector<std::vector<LatentTier>>{{{16, 4}}, {{16, 4}}}));
}

TEST(HfCompression, TiersThatDoNotFitAreRefused) {
  const auto message = [](auto&& change) {
    json config = Dense();
    config["kv_compression"] = TieredSection();
    change(config["kv_compression"]);
    return ErrorOf([&] { Parse(config); });
  };
  const auto expect = [&](const std::string& part, auto&& change) {
    EXPECT_NE(message(change).find(part), std::string::npos) << message(change);
  };
  expect("add up to the rank of group 0, 48", [](json& s) {
    s["tiers"][kK0]["widths"] = {16, 16, 64};
  });
  expect("multiples of 16", [](json& s) { s["tiers"][kK0]["widths"] = {24, 24, 64}; });
  expect("2, 3, 4 or 8", [](json& s) { s["tiers"][kK0]["bits"] = {8, 5, 2}; });
  expect("per_group", [](json& s) { s["tiers"][kK0]["per_group"] = {2}; });
  expect("per_group", [](json& s) { s["tiers"][kK0]["bits"] = {8, 3, 2, 2}; });
  expect("widths", [](json& s) { s["tiers"][kK0]["bits"] = {8, 3}; });
  expect(kV2, [](json& s) { s["tiers"].erase(kV2); });
  expect("the same ranks", [](json& s) { s["shared_latents"] = {2}; });
  expect("shared_latents", [](json& s) { s["shared_latents"] = {3}; });
  expect("budget", [](json& s) { s.erase("budget"); });
}

TEST(HfCompression, QuantizedSection) {
  json config = Dense();
  config["kv_compression"] = Section();
  EXPECT_FALSE(Parse(config).compression->quantization.enabled());
  config["kv_compression"]["version"] = 2;
  config["kv_compression"]["hadamard"] = true;
  config["kv_compression"]["quantization"] = {
      {"bits", 3}, {"group", 32}, {"symmetric", true}, {"clip_ratio", 0.9}};
  const ModelConfig model = Parse(config);
  EXPECT_TRUE(model.compression->hadamard);
  EXPECT_EQ(model.split_tolerance(), kSplitTolerance);
  config["kv_compression"]["split_tolerance"] = 0.01;
  EXPECT_EQ(Parse(config).split_tolerance(), 0.01);
  for (const double wrong : {0.0, -1.0, 1e-9, 0.5}) {
    config["kv_compression"]["split_tolerance"] = wrong;
    EXPECT_NE(ErrorOf([&] { Parse(config); }).find("split_tolerance"), std::string::npos) << wrong;
  }
  config["kv_compression"].erase("split_tolerance");
  EXPECT_EQ(model.compression->rotary_pairs, 0);
  config["kv_compression"]["rotary_pairs"] = 2;
  EXPECT_EQ(Parse(config).compression->rotary_pairs, 2);
  config["kv_compression"]["rotary_pairs"] = 1000;
  EXPECT_NE(ErrorOf([&] { Parse(config); }).find("rotary_pairs"), std::string::npos);
  EXPECT_EQ(model.compression->quantization, (LatentQuantization{3, 32, true, 0.9}));
}

TEST(HfCompression, SectionRefusals) {
  const auto refused = [](const json& patch, const std::string& message) {
    json config = Dense();
    config["kv_compression"] = Section();
    config["kv_compression"].merge_patch(patch);
    EXPECT_EQ(ErrorOf([&] { Parse(config); }), "config.json: field kv_compression." + message);
  };
  refused({{"method", "other"}}, "method: expected \"palu\", found \"other\"");
  refused({{"version", 5}},
          "version: expected a version this program knows (up to 4), found 5, "
          "written by a newer program");
  refused({{"version", nullptr}},
          "version: expected an integer from 1 to 1073741824, found nothing");
  refused({{"version", 0}}, "version: expected an integer from 1 to 1073741824, found 0");
  const auto quantized = [](const json& section) { return json{{"quantization", section}}; };
  refused(quantized({{"bits", 5}}), "quantization.bits: expected 2, 3, 4, 8 or 16, found 5");
  refused(quantized({{"bits", 4}, {"group", 12}}),
          "quantization.group: expected a multiple of 8, found 12");
  refused(quantized({{"bits", 4}, {"clip_ratio", 1.5}}),
          "quantization.clip_ratio: expected a number above 0 and up to 1, found 1.5");
  refused({{"group_size", 3}}, "group_size: expected a divisor of the 4 KV heads, found 3");
  refused({{"group_size", 8}}, "group_size: expected an integer from 1 to 4, found 8");
  refused({{"ratio", 1.5}}, "ratio: expected a number above 0 and up to 1, found 1.5");
  refused({{"ranks", nullptr}}, "ranks: expected an object, found nothing");
  refused({{"ranks", {{kK0, {16, 8, 8}}}}},
          std::string("ranks.") + kK0 + ": expected 2 ranks, one per group, found 3");
  refused({{"ranks", {{kK0, json::array()}}}},
          std::string("ranks.") + kK0 + ": expected 2 ranks, one per group, found 0");
  refused({{"ranks", {{kK0, {16, 33}}}}},
          std::string("ranks.") + kK0 + ": expected an integer from 1 to 32, found 33");
  refused({{"ranks", {{kK0, {0, 16}}}}},
          std::string("ranks.") + kK0 + ": expected an integer from 1 to 32, found 0");
  refused({{"ranks", {{"model.layers.3.self_attn.k_proj", {1, 1}}}}},
          "ranks.model.layers.3.self_attn.k_proj: expected k_proj or v_proj of a layer below 3, "
          "found another module");
}

TEST(HfCompression, PublishedDirectories) {
  for (const auto& [fixture, type, family] :
       {std::tuple{"family-llama31", "palullama", Family::kLlama},
        std::tuple{"family-mistral", "palumistral", Family::kMistral},
        std::tuple{"family-qwen2", "paluqwen2", Family::kQwen2}}) {
    json config = Dense(fixture);
    config["model_type"] = type;
    config["original_model_name_or_path"] = "org/model";
    config["head_wise_ranks"] = {{kK0, {16, 8}}, {kV2, {32, 1}}};
    const ModelConfig model = Parse(config);
    EXPECT_EQ(model.family, family);
    EXPECT_EQ(model.model_type, type);
    EXPECT_EQ(model.compression->group_size, 2);
    EXPECT_EQ(model.compression->source_model, "org/model");
    EXPECT_EQ(model.Ranks(0).k.ranks, (std::vector<int64_t>{16, 8}));
    EXPECT_FALSE(model.Ranks(1).k.factored());
    const double full = static_cast<double>(model.kv_size());
    EXPECT_DOUBLE_EQ(model.compression->ratio, (16 + 8 + 32 + 1 + 4 * full) / (6 * full));
  }
}

TEST(HfCompression, PublishedRefusals) {
  const auto error = [](const json& ranks) {
    json config = Dense();
    config["model_type"] = "palullama";
    config["head_wise_ranks"] = ranks;
    return ErrorOf([&] { Parse(config); });
  };
  EXPECT_NE(error(nullptr).find("head_wise_ranks: expected an object, found nothing"),
            std::string::npos);
  EXPECT_NE(error({{kK0, {1, 2, 3}}}).find("length divides the 4 KV heads, found [1,2,3]"),
            std::string::npos);
  EXPECT_NE(error({{kK0, {1, 2}}, {kV2, {1}}}).find("expected 2 ranks, one per group, found 1"),
            std::string::npos);
  EXPECT_NE(error({{kK0, "all"}}).find("found \"all\""), std::string::npos);
  EXPECT_NE(error({{"model.layers.0.self_attn.q_proj", {1}}}).find("found another module"),
            std::string::npos);
}

}  // namespace
}  // namespace palu
