// Compress, and then everything that can be done with the result.
#include <cmath>

#include "apps/run.h"
#include "golden.h"
#include "model/tensor_names.h"
#include "runtime/cache_layout.h"

namespace palu {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using testing::Args;
using testing::Contents;
using testing::Listing;
using testing::Ok;
using testing::OkJson;
using testing::RunPalu;
using testing::TempDir;
using testing::Wiki;

// One compression of the demo model with little text, shared by the tests.
class CliCompress : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    text_ = new std::string(testing::WriteText(*dir_ / "calib.txt", 6000));
    Ok(Compress("model",
                {"--ratio", "0.5", "--calib", *text_, "--calib-windows", "2", "--calib-seqlen",
                 "256", "--fisher-windows", "1", "--stats", Path("stats")}));
  }
  static void TearDownTestSuite() {
    delete dir_;
    delete text_;
  }

  static std::string Path(const std::string& name) { return *dir_ / name; }

  static Args Compress(const std::string& out, const Args& more) {
    Args args{"compress", Wiki(), Path(out)};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }

  static json Config(const std::string& name) {
    return json::parse(testing::ReadAll(Path(name + "/config.json")));
  }

  static inline TempDir* dir_ = nullptr;
  static inline std::string* text_ = nullptr;
};

TEST_F(CliCompress, InspectCountsEveryByte) {
  const json result = OkJson({"inspect", Path("model")});
  EXPECT_EQ(result["compressed"], true);
  EXPECT_EQ(result["group_size"], 4);
  EXPECT_EQ(result["target_ratio"], 0.5);
  EXPECT_EQ(result["search"], "fisher_uniform");
  EXPECT_EQ(result["decompose"], "whiten");
  int64_t numbers = 0;
  const json ranks = Config("model")["kv_compression"]["ranks"];
  for (const json& layer : result["projections"]) {
    for (const char* side : {"k", "v"}) {
      const json& projection = layer[side];
      numbers += projection["width"].get<int64_t>();
      const auto l = layer["layer"].get<int64_t>();
      const std::string name = *side == 'k' ? names::KProj(l) : names::VProj(l);
      if (projection["form"] == "dense") {
        EXPECT_FALSE(ranks.contains(name));
      } else {
        EXPECT_EQ(projection["ranks"], ranks[name]);
        EXPECT_EQ(projection["groups"], 1);
      }
    }
  }
  const json& kv = result["kv_cache"];
  EXPECT_EQ(kv["bytes_per_token"], 2 * numbers);
  EXPECT_DOUBLE_EQ(kv["ratio"].get<double>(), static_cast<double>(numbers) / (2 * 6 * 4 * 64));
  EXPECT_NEAR(kv["ratio"].get<double>(), 0.5, 0.05);
  const std::string text = Ok({"inspect", Path("model")}).out;
  EXPECT_NE(text.find("group size 4, target ratio 0.5"), text.npos) << text;
}

TEST_F(CliCompress, TheResultRuns) {
  const json generated = OkJson(
      {"generate", Path("model"), "--prompt", "The history of the city", "--max-tokens", "100"});
  const auto stored =
      static_cast<int64_t>(generated["prompt_ids"].size() + generated["ids"].size()) - 1;
  const json kv = OkJson({"inspect", Path("model")})["kv_cache"];
  EXPECT_EQ(generated["kv_bytes"], BlocksFor(stored) * kv["block_bytes"].get<int64_t>());
  const Args ppl{"ppl", "", "--text", *text_, "--seqlen", "256"};
  const auto perplexity = [&](const std::string& model) {
    Args args = ppl;
    args[1] = model;
    return OkJson(args)["perplexity"].get<double>();
  };
  const double dense = perplexity(Wiki()), compressed = perplexity(Path("model"));
  EXPECT_GT(compressed, dense);
  EXPECT_LT(compressed, 1.5 * dense);
}

// Both models compute in float32 from the same numbers in another order. A layer has about ten
// products in a row, each with a relative error of sqrt(hidden) * 2^-24; logits stay below 32.
TEST_F(CliCompress, ExportDenseScoresTheSame) {
  Ok({"export-dense", Path("model"), Path("dense"), "--dtype", "f32"});
  EXPECT_FALSE(Config("dense").contains("kv_compression"));
  EXPECT_EQ(OkJson({"inspect", Path("dense")})["compressed"], false);
  const double tolerance = 6 * 10 * std::sqrt(256.0) * 0x1p-24 * 32;
  const auto score = [](const std::string& model) {
    return OkJson({"score", model, "--cache-type", "f32", "--text",
                   "The city is the capital of the province and has a population of"})["logprobs"];
  };
  const json expected = score(Path("model")), found = score(Path("dense"));
  ASSERT_EQ(expected.size(), found.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(expected[i].get<double>(), found[i].get<double>(), tolerance) << i;
  }
}

TEST_F(CliCompress, StatsMakeTheSameModelWithoutTheText) {
  Ok(Compress("again", {"--ratio", "0.5", "--stats", Path("stats")}));
  EXPECT_TRUE(Contents(Path("again")) == Contents(Path("model")));
  const testing::RunResult other =
      Ok(Compress("other", {"--stats", Path("stats"), "--ratio", "0.3", "--group-size", "1",
                            "--search", "fisher", "--rank-multiple", "8"}));
  EXPECT_EQ(other.err.find("calibrate"), other.err.npos) << other.err;
  EXPECT_EQ(Config("other")["kv_compression"]["ratio"], 0.3);
  EXPECT_EQ(Config("other")["kv_compression"]["ranks"][names::KProj(0)].size(), 4u);
  EXPECT_NEAR(OkJson({"inspect", Path("other")})["kv_cache"]["ratio"].get<double>(), 0.3, 0.03);
}

TEST_F(CliCompress, QuantisedModelRunsFromPackedCodes) {
  Ok(Compress("four", {"--stats", Path("stats"), "--bits", "4"}));
  const json section = Config("four")["kv_compression"];
  EXPECT_EQ(section["version"], 2);
  EXPECT_EQ(section["hadamard"], true);
  EXPECT_EQ(section["quantization"]["bits"], 4);

  const json kv = OkJson({"inspect", Path("four")})["kv_cache"];
  const json plain = OkJson({"inspect", Path("model")})["kv_cache"];
  const double latents = kv["layout"]["latents_per_token"];
  EXPECT_EQ(kv["bytes_per_token"].get<double>(), latents / 2 + 12 * 3);
  EXPECT_EQ(plain["layout"]["latents_per_token"].get<double>(), latents);

  const Args generate = {"generate", Path("four"), "--prompt", "The city", "--max-tokens", "70"};
  const json run = OkJson(generate);
  EXPECT_EQ(run["cache"]["latent_bits"], 4);
  EXPECT_EQ(run["kv_bytes"].get<int64_t>(), 2 * kv["block_bytes"].get<int64_t>());  // of 64 tokens

  // Rotated or not, unquantised latents are the same function.
  const auto score = [&](const std::string& model) {
    return OkJson({"score", model, "--cache-type", "f32", "--latent-bits", "16", "--text",
                   "The city is the capital of the province."})["logprobs"];
  };
  const json rotated = score(Path("four")), straight = score(Path("model"));
  for (size_t i = 0; i < rotated.size(); ++i) {
    // Factors are stored in 11 bits; a rotation rounds them anew.
    EXPECT_NEAR(rotated[i].get<double>(), straight[i].get<double>(), 0.05) << i;
  }

  // The rotary basis is another rotation.
  Ok(Compress("rotary", {"--stats", Path("stats"), "--bits", "4", "--latent-basis", "rotary",
                         "--split-tolerance", "0.01"}));
  EXPECT_EQ(Config("rotary")["kv_compression"]["split_tolerance"], 0.01);
  EXPECT_EQ(section.count("split_tolerance"), 0u);
  EXPECT_EQ(section.count("rotary_pairs"), 0u);
  EXPECT_GT(Config("rotary")["kv_compression"]["rotary_pairs"].get<int>(), 0);
  const json turned = score(Path("rotary"));
  for (size_t i = 0; i < turned.size(); ++i) {
    EXPECT_NEAR(turned[i].get<double>(), straight[i].get<double>(), 0.05) << i;
  }
}

TEST_F(CliCompress, BudgetIsOneKnob) {
  const Args calibration = {"--calib",        *text_, "--calib-windows",  "2",
                            "--calib-seqlen", "256",  "--fisher-windows", "2"};
  Args first = {"--budget", "1.5", "--stats", Path("two-sided")};
  first.insert(first.end(), calibration.begin(), calibration.end());
  const testing::RunResult made = Ok(Compress("tiers", first));
  EXPECT_NE(made.err.find("layer  5 "), made.err.npos) << made.err;  // the table as a picture
  EXPECT_NE(made.err.find("predicted rise of the loss"), made.err.npos) << made.err;
  EXPECT_NE(made.err.find("KL on held-out calibration text"), made.err.npos) << made.err;
  const testing::RunResult again = Ok(Compress("again-in-tiers", first));
  EXPECT_EQ(again.err.find("calibrate"), again.err.npos) << again.err;
  EXPECT_TRUE(Contents(Path("again-in-tiers")) == Contents(Path("tiers")));
  // Without the text there is nothing to measure the price of truncation on.
  const testing::RunResult usual =
      Ok(Compress("usual-price", {"--budget", "1.5", "--stats", Path("two-sided")}));
  EXPECT_NE(usual.err.find("price of truncation over noise: 1.5"), usual.err.npos) << usual.err;

  const auto work = [](const std::string& log) {
    const std::string label = "ns per cached token on one CPU core: ";
    const size_t at = log.find(label);
    EXPECT_NE(at, log.npos) << log;
    return std::stod(log.substr(at + label.size()));
  };
  const testing::RunResult fast =
      Ok(Compress("fast", {"--budget", "1.5", "--prefer", "speed", "--stats", Path("two-sided")}));
  EXPECT_LT(work(fast.err), work(usual.err));

  const json inspected = OkJson({"inspect", Path("tiers")});
  EXPECT_EQ(inspected["budget"], 1.5);
  EXPECT_GT(inspected["predicted_loss"].get<double>(), 0);
  const json& kv = inspected["kv_cache"];
  const double bits = kv["bits_per_element"];
  EXPECT_LE(bits, 1.5);
  // No block of 16 latents more fits at 2 bits, the window's share included, in a tier of its own.
  EXPECT_GT(bits, 1.5 - (16 * 2.125 + 8) / (2 * 6 * 256));
  const json& bytes = kv["layout"]["bytes"];
  EXPECT_EQ(kv["window_tokens"], 16);
  EXPECT_NE(Ok({"inspect", Path("tiers")}).out.find("a window of the last 16 tokens"),
            std::string::npos);
  EXPECT_EQ(kv["window_bytes"], 16 * 2 * kv["layout"]["latents_per_token"].get<int64_t>());
  EXPECT_EQ(bytes["recent"].get<double>(), kv["window_bytes"].get<double>() / 2048);
  EXPECT_EQ(
      bytes["codes"].get<double>() + bytes["scales"].get<double>() + bytes["recent"].get<double>(),
      kv["bytes_per_token"].get<double>());

  const json run = OkJson({"generate", Path("tiers"), "--prompt", "The city", "--max-tokens", "70",
                           "--temperature", "0"});
  EXPECT_EQ(run["kv_bytes"].get<int64_t>(),  // two blocks of 64 tokens
            2 * kv["block_bytes"].get<int64_t>() + kv["window_bytes"].get<int64_t>());
  EXPECT_EQ(run["cache"]["bits_per_element"], bits);

  const Args ppl{"ppl", "", "--text", *text_, "--seqlen", "256"};
  const auto perplexity = [&](const std::string& model) {
    Args args = ppl;
    args[1] = model;
    return OkJson(args)["perplexity"].get<double>();
  };
  EXPECT_LT(perplexity(Path("tiers")), 1.5 * perplexity(Wiki()));
}

TEST_F(CliCompress, ABudgetIsTheDefault) {
  Ok(Compress("default", {"--calib", *text_, "--calib-windows", "2", "--calib-seqlen", "256",
                          "--fisher-windows", "2"}));
  const json inspected = OkJson({"inspect", Path("default")});
  EXPECT_EQ(inspected["budget"], 2.2);
  EXPECT_LE(inspected["kv_cache"]["bits_per_element"].get<double>(), 2.2);
}

TEST_F(CliCompress, BudgetRefusesWhatItCannotDo) {
  for (
      const auto& [more, message] :
      {std::pair<Args, std::string>{{"--budget", "0"}, "budget: expected bits per element above 0"},
       {{"--budget", "2", "--stats", Path("stats")}, "lack the outputs' gradients"},
       {{"--budget", "2", "--tier-block", "24"}, "tier-block: expected a multiple of 16"},
       {{"--budget", "2", "--ratio", "0.5"},
        "--budget compresses to a budget of bits and --ratio by the published method: give options "
        "of one of the two"},
       {{"--search", "fisher", "--tier-block", "32"}, "--tier-block compresses to a budget"},
       {{"--stats", Path("stats")}, "lack the outputs' gradients"}}) {
    const testing::RunResult result = RunPalu(Compress("refused", more));
    EXPECT_NE(result.status, 0);
    EXPECT_NE(result.err.find(message), result.err.npos) << result.err;
  }
}

TEST_F(CliCompress, QuantisationOptionsOutOfRange) {
  for (const auto& [option, value, message] :
       {std::array{"--quant-group", "12", "multiple of 8"},
        {"--clip-ratio", "0", "clip-ratio"},
        {"--rank-multiple", "4", "multiple of 8 for quantised"}}) {
    const testing::RunResult result =
        RunPalu(Compress("refused", {"--stats", Path("stats"), "--bits", "4", option, value}));
    EXPECT_EQ(result.status, 1);
    EXPECT_NE(result.err.find(message), result.err.npos) << result.err;
  }
}

TEST_F(CliCompress, StatsOfOtherTextAreRefused) {
  const testing::RunResult result = RunPalu(Compress(
      "refused", {"--ratio", "0.5", "--stats", Path("stats"), "--calib", *text_, "--calib-windows",
                  "3", "--calib-seqlen", "256", "--fisher-windows", "1"}));
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.err.find("statistics of another number of windows: expected 3, found 2"),
            result.err.npos)
      << result.err;
}

TEST_F(CliCompress, ForceReplacesAndFailureKeeps) {
  Ok(Compress("forced", {"--ratio", "0.5", "--stats", Path("stats")}));
  const auto before = Contents(Path("forced"));
  const auto names = Listing(dir_->path());
  const Args smaller = {"--stats", Path("stats"), "--ratio", "0.25"};

  const testing::RunResult refused = RunPalu(Compress("forced", smaller));
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.err.find("forced: exists; use --force to replace it"), refused.err.npos);

  Args force = Compress("forced", smaller);
  force.push_back("--force");
  const testing::RunResult failed = RunPalu(force, {.max_file_bytes = 1 << 20});
  EXPECT_EQ(failed.status, 1) << failed.err;
  EXPECT_NE(failed.err.find("model.safetensors: cannot write"), failed.err.npos) << failed.err;
  EXPECT_TRUE(Contents(Path("forced")) == before);
  EXPECT_EQ(Listing(dir_->path()), names);

  Ok(force);
  EXPECT_EQ(Config("forced")["kv_compression"]["ratio"], 0.25);
  EXPECT_EQ(Listing(dir_->path()), names);
}

TEST_F(CliCompress, MeasureWritesTheModelCard) {
  Ok(Compress("measured", {"--ratio", "0.5", "--stats", Path("stats"), "--measure", *text_,
                           "--measure-seqlen", "256", "--quiet"}));
  const std::string card = testing::ReadAll(Path("measured/README.md"));
  EXPECT_NE(card.find("perplexity on calib.txt at 256, compressed"), card.npos) << card;
}

// Our compressed Qwen2 as the published code would have left it: other names in config.json, and
// each group's bias beside its up-projection.
void MakePublished(const std::filesystem::path& ours, const std::filesystem::path& published) {
  const TensorStore store = TensorStore::OpenDirectory(ours);
  auto config = ordered_json::parse(testing::ReadAll(ours / "config.json"));
  const json section = config["kv_compression"];
  config.erase("kv_compression");
  config["model_type"] = "paluqwen2";
  config["architectures"] = {"PaluQwen2ForCausalLM"};
  config["head_wise_ranks"] = section["ranks"];
  config["original_model_name_or_path"] = "Qwen/Qwen2";
  std::set<std::string> moved;
  std::vector<NamedTensor> tensors;
  for (const auto& [module, ranks] : section["ranks"].items()) {
    const TensorView& bias = *store.Find(names::Bias(module));
    const auto groups = static_cast<int64_t>(ranks.size());
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t rows = bias.rows() / groups;
      tensors.push_back({names::UBias(module, g), bias.Rows(g * rows, rows)});
    }
    moved.insert(names::Bias(module));
  }
  for (const auto& [name, view] : store.tensors()) {
    if (!moved.contains(name)) tensors.push_back({name, view});
  }
  std::filesystem::create_directory(published);
  WriteShardedSafetensors(published, tensors, {});
  std::ofstream(published / "config.json") << config.dump(2);
}

TEST(CliPublished, RunsAsOurs) {
  TempDir dir;
  const std::string ours = dir / "ours", published = dir / "published", dense = dir / "dense";
  Ok({"compress", testing::Repo("tests/data/models/family-qwen2"), ours, "--search", "uniform",
      "--decompose", "svd", "--group-size", "2", "--rank-multiple", "8", "--ratio", "0.75"});
  MakePublished(ours, published);
  const std::string ids =
      testing::WriteIds(dir / "ids", testing::Golden("golden_families.json")["qwen2"]["ids"]);
  const json expected = OkJson({"score", ours, "--ids", ids});
  EXPECT_EQ(OkJson({"score", published, "--ids", ids}), expected);
  json theirs = OkJson({"inspect", published}), own = OkJson({"inspect", ours});
  EXPECT_EQ(theirs["projections"], own["projections"]);
  EXPECT_EQ(theirs["kv_cache"], own["kv_cache"]);
  EXPECT_EQ(theirs["family"], "qwen2");
  Ok({"export-dense", published, dense});
  EXPECT_EQ(OkJson({"inspect", dense})["compressed"], false);
}

}  // namespace
}  // namespace palu
