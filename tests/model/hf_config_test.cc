#include "model/hf_config.h"

#include <nlohmann/json.hpp>

#include "io/expect_has.h"
#include "testing.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::ErrorOf;
using testing::ExpectHas;
using testing::Repo;

json Fixture(const std::string& model) {
  return json::parse(testing::ReadAll(Repo("tests/data/models/" + model + "/config.json")));
}

ModelConfig Parse(const json& config) { return ParseConfig(config.dump(), "config.json"); }

// The message for a fixture after a change.
std::string ErrorFor(const std::string& model, const json& patch) {
  json config = Fixture(model);
  config.merge_patch(patch);
  return ErrorOf([&] { Parse(config); });
}

TEST(HfConfig, Llama31) {
  const ModelConfig config = LoadConfig(Repo("tests/data/models/family-llama31"));
  EXPECT_EQ(config.family, Family::kLlama);
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.hidden_size, 128);
  EXPECT_EQ(config.intermediate_size, 256);
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.num_heads, 8);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.vocab_size, 512);
  EXPECT_EQ(config.max_position, 131072);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(config.rope.factor, 8.0);
  EXPECT_EQ(config.rope.low_freq_factor, 1.0);
  EXPECT_EQ(config.rope.high_freq_factor, 4.0);
  EXPECT_EQ(config.rope.original_max_position, 8192);
  EXPECT_FALSE(config.tied_embeddings || config.qkv_bias || config.o_bias || config.qk_norm);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{2});
  EXPECT_FALSE(config.compression.has_value());
}

TEST(HfConfig, MistralHasItsOwnHeadDimension) {
  const ModelConfig config = LoadConfig(Repo("tests/data/models/family-mistral"));
  EXPECT_EQ(config.family, Family::kMistral);
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.q_size(), 256);
  EXPECT_EQ(config.rope.theta, 1e6);
  EXPECT_EQ(config.rope.scaling, RopeScaling::kNone);
}

TEST(HfConfig, Qwen2HasBiasesOnQkvOnly) {
  const ModelConfig config = LoadConfig(Repo("tests/data/models/family-qwen2"));
  EXPECT_EQ(config.family, Family::kQwen2);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.head_dim, 16);
}

TEST(HfConfig, Qwen3HasNorms) {
  const ModelConfig config = LoadConfig(Repo("tests/data/models/family-qwen3"));
  EXPECT_EQ(config.family, Family::kQwen3);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_EQ(config.head_dim, 32);
}

TEST(HfConfig, SmallModels) {
  const ModelConfig stories = LoadConfig(Repo("tests/data/models/stories260k"));
  EXPECT_EQ(stories.head_dim, 8);
  EXPECT_TRUE(stories.tied_embeddings);
  const ModelConfig wiki = LoadConfig(Repo("models/wiki-7m-mha"));
  EXPECT_EQ(wiki.num_kv_heads, 4);
  EXPECT_EQ(wiki.head_dim, 64);
  EXPECT_EQ(wiki.eos_token_ids, std::vector<int32_t>{2});
}

TEST(HfConfig, GenerationConfigAddsEndTokens) {
  testing::TempDir dir;
  json config = Fixture("family-llama31");
  config["eos_token_id"] = json::array({2, 5});
  std::ofstream(dir / "config.json") << config;
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id": [5, 7]})";
  EXPECT_EQ(LoadConfig(dir.path()).eos_token_ids, (std::vector<int32_t>{2, 5, 7}));
}

TEST(HfConfig, AttentionAndMlpBias) {
  json config = Fixture("family-llama31");
  config["attention_bias"] = config["mlp_bias"] = true;
  const ModelConfig llama = Parse(config);
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias && llama.mlp_bias);
  config = Fixture("family-qwen3");
  config["attention_bias"] = true;
  EXPECT_TRUE(Parse(config).qkv_bias);
}

TEST(HfConfig, RopeForms) {
  json config = Fixture("family-llama31");
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};  // the oldest spelling
  EXPECT_EQ(Parse(config).rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(Parse(config).rope.factor, 2.5);

  config.erase("rope_theta");
  config.erase("rope_scaling");
  EXPECT_EQ(Parse(config).rope.theta, 10000.0);

  config["rope_parameters"] = {{"rope_theta", 123.0}, {"rope_type", "default"}};
  EXPECT_EQ(Parse(config).rope.theta, 123.0);
  EXPECT_EQ(Parse(config).rope.scaling, RopeScaling::kNone);

  config["rope_parameters"] = {{"rope_theta", 5e5},
                               {"rope_type", "llama3"},
                               {"factor", 32},
                               {"low_freq_factor", 1},
                               {"high_freq_factor", 4.0},
                               {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(Parse(config).rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(Parse(config).rope.factor, 32.0);
}

TEST(HfConfig, RopeRefusals) {
  const std::string llama = "family-llama31";
  EXPECT_EQ(ErrorFor(llama, {{"rope_scaling", {{"rope_type", "yarn"}}}}),
            "config.json: field rope_scaling.rope_type: expected default, linear or llama3, found "
            "\"yarn\"");
  ExpectHas(ErrorFor(llama, {{"rope_scaling", {{"factor", -1}}}}), "rope_scaling.factor");
  ExpectHas(ErrorFor(llama, {{"rope_scaling", {{"factor", nullptr}}}}), "found nothing");
  ExpectHas(ErrorFor(llama, {{"rope_scaling", {{"high_freq_factor", 0.5}}}}),
            "expected more than low_freq_factor, found 0.5");
  ExpectHas(ErrorFor(llama, {{"rope_theta", "big"}}), "expected a positive number, found \"big\"");
  ExpectHas(ErrorFor(llama, {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor");
  ExpectHas(ErrorFor(llama, {{"rope_parameters", {{"full_attention", json::object()}}}}),
            "one set of parameters for all layers");
}

TEST(HfConfig, SlidingWindow) {
  json config = Fixture("family-mistral");
  config["sliding_window"] = 4096;
  EXPECT_EQ(ErrorOf([&] { Parse(config); }),
            "config.json: field sliding_window: expected none or at least max_position_embeddings "
            "(8192), as windowed attention is not supported, found 4096");
  config["sliding_window"] = 8192;
  EXPECT_NO_THROW(Parse(config));
  config = Fixture("family-qwen2");
  config["sliding_window"] = 1024;
  EXPECT_NO_THROW(Parse(config));  // use_sliding_window is false
  config["use_sliding_window"] = true;
  EXPECT_NO_THROW(Parse(config));  // and max_window_layers exempts every layer
  config["max_window_layers"] = 1;
  ExpectHas(ErrorOf([&] { Parse(config); }), "windowed attention is not supported");
}

TEST(HfConfig, Refusals) {
  const std::string llama = "family-llama31";
  const auto refused = [&](const json& patch, std::string_view part) {
    ExpectHas(ErrorFor(llama, patch), part);
  };
  refused({{"model_type", "gpt2"}}, "field model_type: expected llama, mistral");
  refused({{"model_type", "gpt2"}}, "found \"gpt2\"");
  refused({{"model_type", nullptr}}, "field model_type: expected a string, found nothing");
  refused({{"hidden_act", "gelu"}}, "expected \"silu\", found \"gelu\"");
  refused({{"torch_dtype", "int8"}}, "expected float32, float16 or bfloat16, found \"int8\"");
  refused({{"quantization_config", {{"bits", 4}}}}, "found quantised ones");
  refused({{"hidden_size", 0}},
          "field hidden_size: expected an integer from 1 to 16777216, found 0");
  refused({{"hidden_size", 1e30}}, "found 1e+30");
  refused({{"hidden_size", "128"}}, "found \"128\"");
  refused({{"hidden_size", nullptr}}, "found nothing");
  refused({{"num_hidden_layers", 1025}}, "from 1 to 1024, found 1025");
  refused({{"num_hidden_layers", -1}}, "found -1");
  refused({{"vocab_size", 18446744073709551615u}}, "found 18446744073709551615");
  refused({{"num_key_value_heads", 3}}, "expected a divisor of the 8 attention heads, found 3");
  refused({{"head_dim", 15}}, "expected an even number, found 15");
  refused({{"head_dim", nullptr}, {"hidden_size", 100}}, "multiple of the 8 attention heads");
  refused({{"rms_norm_eps", 0}}, "field rms_norm_eps");
  refused({{"tie_word_embeddings", "yes"}}, "expected true or false, found \"yes\"");
  refused({{"bos_token_id", 512}}, "from 0 to 511, found 512");
  refused({{"eos_token_id", {1, "x"}}}, "field eos_token_id");
  refused({{"eos_token_id", "x"}}, "an integer or a list of integers");
}

TEST(HfConfig, NotJson) {
  const auto error = [](std::string_view text) {
    return ErrorOf([&] { ParseConfig(text, "config.json"); });
  };
  ExpectHas(error(""), "config.json: not valid JSON");
  ExpectHas(error("{"), "not valid JSON");
  ExpectHas(error("[1]"), "expected a JSON object, found [1]");
  ExpectHas(error(R"({"a": 1, "a": 2})"), "key \"a\" appears twice");
  ExpectHas(error(std::string(100, '[')), "nested deeper than 32");
  ExpectHas(error("{\"model_type\": \"\xff\"}"), "not valid JSON");
}

TEST(HfConfig, MissingDirectoryAndFile) {
  testing::TempDir dir;
  ExpectHas(ErrorOf([&] { LoadConfig(dir / "none"); }), "none: no such directory");
  ExpectHas(ErrorOf([&] { LoadConfig(dir.path()); }), "config.json: cannot open");
  std::filesystem::create_directory(dir / "config.json");
  ExpectHas(ErrorOf([&] { LoadConfig(dir.path()); }), "config.json: not a regular file");
}

}  // namespace
}  // namespace palu
