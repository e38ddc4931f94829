// Bad input gets one sentence that names what is wrong, exit code 1, and leaves nothing behind.
#include <functional>

#include "apps/run.h"
#include "golden.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::Args;
using testing::Listing;
using testing::RunOptions;
using testing::RunResult;
using testing::TempDir;
using Path = std::filesystem::path;

Path Fixture(const std::string& name) { return testing::Repo("tests/data/models/" + name); }

// A copy of a fixture as DIR/model.
Path Copy(const Path& dir, const std::string& name) {
  std::filesystem::copy(Fixture(name), dir / "model");
  return dir / "model";
}

Path Write(const Path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

// stories260k with one key of its config.json changed.
Args InspectWith(const Path& dir, const std::string& key, const json& value) {
  const Path model = Copy(dir, "stories260k");
  json config = json::parse(testing::ReadAll(model / "config.json"));
  config[key] = value;
  Write(model / "config.json", config.dump());
  return {"inspect", model};
}

// stories260k whose weights are another safetensors file.
Args InspectWeights(const Path& dir, const std::string& header, size_t data_bytes,
                    uint64_t length = 0) {
  const Path model = Copy(dir, "stories260k");
  if (length == 0) length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  Write(model / "model.safetensors", file + header + std::string(data_bytes, '\0'));
  return {"inspect", model};
}

Args Generate(const Path& model, const Args& more = {}) {
  Args args{"generate", model, "--prompt", "Once"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// Needs no calibration; --quiet because of the progress before a late error.
Args Compress(const Path& dir, const Args& more = {}, const Path& model = Fixture("family-qwen2")) {
  Args args{"compress",    model, dir / "OUT",    "--search", "uniform",
            "--decompose", "svd", "--group-size", "2",        "--quiet"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

struct BadCase {
  const char* name;
  std::function<Args(const Path& dir)> prepare;
  std::vector<std::string> fragments;
  RunOptions options = {};
};

void PrintTo(const BadCase& bad, std::ostream* out) { *out << bad.name; }

const std::vector<BadCase>& Cases() {
  static const std::string stories = Fixture("stories260k");
  static const std::string qwen = Fixture("family-qwen2");
  static const std::vector<BadCase> cases = {
      // The weights.
      {"TruncatedTensors",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "stories260k");
         std::filesystem::resize_file(model / "model.safetensors", 500'000);
         return {"inspect", model};
       },
       {"model.safetensors: tensor ", "field data_offsets: expected a range within "}},
      {"TruncatedHeader",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "stories260k");
         std::filesystem::resize_file(model / "model.safetensors", 100);
         return {"inspect", model};
       },
       {"model.safetensors: truncated: expected a header of ", "found 92"}},
      {"EmptyWeights",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "stories260k");
         Write(model / "model.safetensors", "");
         return {"inspect", model};
       },
       {"model.safetensors: truncated: expected at least 8 bytes", "found 0"}},
      {"Overlap",
       [](const Path& dir) {
         return InspectWeights(dir,
                               R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                               R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                               12);
       },
       {"model.safetensors: tensor b: overlaps"}},
      {"HugeHeader",
       [](const Path& dir) { return InspectWeights(dir, "{}", 0, 100'000'001); },
       {"model.safetensors: header: expected at most 100000000 bytes, found 100000001"}},
      {"OverflowingShape",
       [](const Path& dir) {
         return InspectWeights(dir,
                               R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],)"
                               R"("data_offsets":[0,0]}})",
                               0);
       },
       {"tensor a: shape [4294967296, 4294967296] of F32 does not fit"}},
      {"UnknownDtype",
       [](const Path& dir) {
         return InspectWeights(dir, R"({"a":{"dtype":"F13","shape":[0],"data_offsets":[0,0]}})", 0);
       },
       {"tensor a: expected a dtype", "found \"F13\""}},
      {"MissingTensor",
       [](const Path& dir) {
         return InspectWeights(dir, R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0);
       },
       {"tensor model.embed_tokens.weight: expected [512, 64], found no such tensor"}},
      {"IntegerWeights",
       [](const Path& dir) {
         return InspectWeights(dir,
                               R"({"model.embed_tokens.weight":{"dtype":"I8","shape":[1],)"
                               R"("data_offsets":[0,1]}})",
                               1);
       },
       {"tensor model.embed_tokens.weight: expected F32, F16 or BF16, found I8"}},
      {"LineEndInATensorName",
       [](const Path& dir) {
         return InspectWeights(dir,
                               R"({"a\nb\u001b":{"dtype":"F13","shape":[0],)"
                               R"("data_offsets":[0,0]}})",
                               0);
       },
       {"tensor a b : expected a dtype"}},
      {"MissingShard",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "family-mistral");
         std::filesystem::remove(model / "model-00002-of-00002.safetensors");
         return {"inspect", model};
       },
       {"model.safetensors.index.json: shard model-00002-of-00002.safetensors is missing"}},
      {"NoWeights",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "stories260k");
         std::filesystem::remove(model / "model.safetensors");
         return {"inspect", model};
       },
       {"model: expected model.safetensors or model.safetensors.index.json, found neither"}},
      // config.json.
      {"WrongShape",
       [](const Path& dir) { return InspectWith(dir, "intermediate_size", 171); },
       {"tensor model.layers.0.mlp.gate_proj.weight: expected [171, 64], found [172, 64]"}},
      {"UnknownArchitecture",
       [](const Path& dir) { return InspectWith(dir, "model_type", "gpt2"); },
       {"config.json: field model_type: expected llama", "found \"gpt2\""}},
      {"UnknownRope",
       [](const Path& dir) {
         return InspectWith(dir, "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}});
       },
       {"config.json: field rope_scaling.rope_type: expected default", "found \"yarn\""}},
      {"UnknownConfigDtype",
       [](const Path& dir) { return InspectWith(dir, "torch_dtype", "int3"); },
       {"config.json: field torch_dtype: expected", "found \"int3\""}},
      {"NoConfig",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "stories260k");
         std::filesystem::remove(model / "config.json");
         return {"inspect", model};
       },
       {"config.json: cannot open: No such file"}},
      {"NoDirectory",
       [](const Path& dir) -> Args {
         return {"inspect", dir / "model"};
       },
       {"model: no such directory"}},
      // Tokenizers and text.
      {"MalformedTokenizer",
       [](const Path& dir) {
         const Path model = Copy(dir, "stories260k");
         Write(model / "tokenizer.json", R"({"model": {"type": "BPE", "vocab": [1)");
         return Generate(model);
       },
       {"tokenizer.json: "}},
      {"MalformedSentencePiece",
       [](const Path& dir) {
         const Path model = Copy(dir, "stories260k");
         Write(model / "tokenizer.model", "no model");
         return Generate(model);
       },
       {"tokenizer.model: "}},
      {"GenerateWithoutTokenizer",
       [](const Path&) { return Generate(qwen); },
       {"family-qwen2: this command needs text, and there is no tokenizer"}},
      {"PplWithoutTokenizer",
       [](const Path& dir) -> Args {
         return {"ppl", qwen, "--text", Write(dir / "text", "text")};
       },
       {"family-qwen2: this command needs text"}},
      {"ScoreTextWithoutTokenizer",
       [](const Path&) -> Args {
         return {"score", qwen, "--text", "text"};
       },
       {"family-qwen2: this command needs text"}},
      {"CompressWithoutTokenizer",
       [](const Path& dir) -> Args {
         return {"compress", qwen, dir / "OUT", "--calib", Write(dir / "text", "text")};
       },
       {"family-qwen2: this command needs text"}},
      {"ShortText",
       [](const Path& dir) -> Args {
         return {"ppl", stories, "--text", Write(dir / "text", "Too short.")};
       },
       {"text: expected at least one window of 2048 tokens, found "}},
      {"ShortCalibration",
       [](const Path& dir) -> Args {
         return {"compress", stories, dir / "OUT", "--calib", Write(dir / "text", "Too short.")};
       },
       {"text: expected 64 windows of 1024 tokens, found "}},
      {"ShortMeasure",
       [](const Path& dir) {
         return Compress(dir, {"--measure", Write(dir / "text", "Too short.")}, stories);
       },
       {"text: expected at least one window of 2048 tokens, found "}},
      {"TextIsNotUtf8",
       [](const Path& dir) -> Args {
         return {"ppl", stories, "--text", Write(dir / "text", "caf\xE9 au lait")};
       },
       {"text: expected UTF-8, found 0xE9 as byte 3"}},
      {"CalibrationIsNotUtf8",
       [](const Path& dir) -> Args {
         return {"compress", stories, dir / "OUT", "--calib", Write(dir / "text", "caf\xE9 noir")};
       },
       {"text: expected UTF-8, found 0xE9 as byte 3"}},
      {"PromptIsNotUtf8",
       [](const Path&) -> Args {
         return {"generate", stories, "--prompt", "\xFF"};
       },
       {"--prompt: expected UTF-8, found 0xFF as byte 0"}},
      {"ScoreTextIsNotUtf8",
       [](const Path&) -> Args {
         return {"score", stories, "--text", "a\xC3("};
       },
       {"--text: expected UTF-8, found 0xC3 as byte 1"}},
      {"FillerIsNotUtf8",
       [](const Path& dir) -> Args {
         return {"eval",      stories, "--tasks",  "passkey",
                 "--lengths", "256",   "--filler", Write(dir / "text", "\xE9t\xE9"),
                 "--quiet"};
       },
       {"text: expected UTF-8, found 0xE9 as byte 0"}},
      {"ShortTextForKl",
       [](const Path& dir) -> Args {
         return {"kl", stories, stories, "--text", Write(dir / "text", "Too short.")};
       },
       {"text: expected at least one window of 2048 tokens, found "}},
      {"TextIsADirectory",
       [](const Path& dir) -> Args {
         return {"ppl", stories, "--text", dir};
       },
       {"not a regular file"}},
      {"NoText",
       [](const Path& dir) -> Args {
         return {"ppl", stories, "--text", dir / "none"};
       },
       {"none: cannot open: No such file"}},
      {"NoCalibrationFile",
       [](const Path& dir) -> Args {
         return {"compress", stories, dir / "OUT", "--calib", dir / "none"};
       },
       {"none: cannot open: No such file"}},
      // Ids.
      {"IdOutOfRange",
       [](const Path& dir) -> Args {
         return {"score", stories, "--ids", Write(dir / "ids", "1 2 512")};
       },
       {"ids: token 2: expected an id in [0, 512), found '512'"}},
      {"IdIsNoNumber",
       [](const Path& dir) -> Args {
         return {"score", stories, "--ids", Write(dir / "ids", "1 2x")};
       },
       {"ids: token 1: expected an id in [0, 512), found '2x'"}},
      {"IdsAreNotUtf8",  // the message is
       [](const Path& dir) -> Args {
         return {"score", stories, "--ids", Write(dir / "ids", "\xE9")};
       },
       {"found '\xEF\xBF\xBD'"}},
      {"NoIds",
       [](const Path& dir) -> Args {
         return {"score", stories, "--ids", Write(dir / "ids", " ")};
       },
       {"ids: expected token ids, found none"}},
      {"TextAndIds",
       [](const Path& dir) -> Args {
         return {"score", stories, "--text", "a", "--ids", Write(dir / "ids", "1")};
       },
       {"--text", "--ids", "see palu score --help"}},
      {"NeitherTextNorIds",
       [](const Path&) -> Args {
         return {"score", stories};
       },
       {"--text", "--ids", "see palu score --help"}},
      // Compression.
      {"GroupSizeDoesNotDivide",
       [](const Path& dir) {
         Args args = Compress(dir);
         *(std::find(args.begin(), args.end(), "--group-size") + 1) = "3";
         return args;
       },
       {"group size of 3 does not divide the model's 4 KV heads"}},
      {"RatioZero",
       [](const Path& dir) {
         return Compress(dir, {"--ratio", "0"});
       },
       {"ratio must be above 0 and at most 1, found 0"}},
      {"RatioAboveOne",
       [](const Path& dir) {
         return Compress(dir, {"--ratio", "1.01"});
       },
       {"ratio must be above 0 and at most 1, found 1.01"}},
      {"RatioNan",
       [](const Path& dir) {
         return Compress(dir, {"--ratio", "nan"});
       },
       {"ratio must be above 0 and at most 1, found nan"}},
      {"RankMultipleZero",
       [](const Path& dir) {
         return Compress(dir, {"--rank-multiple", "0"});
       },
       {"rank multiple must be at least 1, found 0"}},
      {"QuantGroupWithoutBits",
       [](const Path& dir) {
         return Compress(dir, {"--quant-group", "32"});
       },
       {"--clip-ratio are for quantised latents: give --bits"}},
      {"BadRatioBeforeTheCalibration",
       [](const Path& dir) -> Args {
         return {"compress", stories, dir / "OUT", "--ratio", "2", "--calib", dir / "none"};
       },
       {"ratio must be above 0 and at most 1, found 2"}},
      {"NoCalibration",
       [](const Path& dir) -> Args {
         return {"compress", stories, dir / "OUT"};
       },
       {"no calibration text: give --calib FILE, or --stats FILE"}},
      {"NoFisherWindows",
       [](const Path& dir) -> Args {
         return {"compress",
                 stories,
                 dir / "OUT",
                 "--search",
                 "fisher-uniform",
                 "--fisher-windows",
                 "0",
                 "--calib-windows",
                 "1",
                 "--calib-seqlen",
                 "4",
                 "--calib",
                 Write(dir / "text", "Once upon a time")};
       },
       {"fisher-windows: expected 1 or more for --search fisher-uniform, found 0"}},
      {"StatsAreNoStats",
       [](const Path& dir) -> Args {
         return {"compress", stories, dir / "OUT", "--stats",
                 Fixture("stories260k") / "model.safetensors"};
       },
       {"model.safetensors: metadata field format: expected palu-stats, found 'pt'"}},
      {"StatsFolderIsMissing",
       [](const Path& dir) -> Args {
         return {"compress",
                 stories,
                 dir / "OUT",
                 "--stats",
                 dir / "none" / "stats",
                 "--calib",
                 Write(dir / "text", "Once")};
       },
       {"none: no such directory to create stats in"}},
      {"OutExists",
       [](const Path& dir) {
         std::filesystem::copy(Fixture("family-qwen2"), dir / "OUT");
         return Compress(dir);
       },
       {"OUT: exists; use --force to replace it"}},
      {"OutIsAFile",
       [](const Path& dir) {
         Write(dir / "OUT", "mine");
         return Compress(dir, {"--force"});
       },
       {"OUT: exists and is not a directory"}},
      {"OutIsNoModel",
       [](const Path& dir) {
         std::filesystem::create_directory(dir / "OUT");
         Write(dir / "OUT" / "thesis.tex", "mine");
         return Compress(dir, {"--force"});
       },
       {"OUT: expected a model directory for --force to replace, found no config.json"}},
      {"OutIsTheModel",
       [](const Path& dir) {
         std::filesystem::create_directory_symlink(Copy(dir, "family-qwen2"), dir / "link");
         Args args = Compress(dir, {"--force"}, dir / "link");
         args[2] = (dir / "." / "model" / "").string();
         return args;
       },
       {"expected a directory apart from what is read"}},
      {"OutHoldsTheModel",
       [](const Path& dir) {
         std::filesystem::copy(Fixture("family-qwen2"), dir / "OUT");
         std::filesystem::copy(Fixture("family-qwen2"), dir / "OUT" / "inner");
         return Compress(dir, {"--force"}, dir / "OUT" / "inner");
       },
       {"OUT: expected a directory apart from what is read, found ", "inner in it"}},
      {"OutHoldsTheStats",
       [](const Path& dir) {
         std::filesystem::copy(Fixture("family-qwen2"), dir / "OUT");
         return Compress(dir, {"--force", "--stats", dir / "OUT" / "stats"});
       },
       {"OUT: expected a directory apart from what is read, found "}},
      {"OutHasNoParent",
       [](const Path& dir) {
         Args args = Compress(dir);
         args[2] = dir / "none" / "OUT";
         return args;
       },
       {"none: no such directory to create OUT in"}},
      {"ExportDenseOntoItself",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "family-qwen2");
         return {"export-dense", model, model, "--force"};
       },
       {"model: expected a directory apart from what is read"}},
      {"ExportDenseOfADenseModel",
       [](const Path& dir) -> Args {
         return {"export-dense", qwen, dir / "OUT"};
       },
       {"family-qwen2: expected a compressed model, found a dense one"}},
      {"CompressedTwice",
       [](const Path& dir) -> Args {
         const Path model = Copy(dir, "family-qwen2");
         json config = json::parse(testing::ReadAll(model / "config.json"));
         config["kv_compression"] = {
             {"method", "palu"}, {"version", 1}, {"group_size", 4}, {"ranks", json::object()}};
         Write(model / "config.json", config.dump());
         return {"compress", model, dir / "OUT", "--calib", dir / "none"};
       },
       {"model: this model is compressed already; compress the dense one"}},
      // A limit on file sizes stands in for a full disk.
      {"DiskFullWhileWriting",
       [](const Path& dir) { return Compress(dir); },
       {"model.safetensors: cannot write "},
       {.max_file_bytes = 100'000}},
      {"DiskFullAtStdout",
       [](const Path&) -> Args {
         return {"inspect", stories, "--json"};
       },
       {"stdout: cannot be written"},
       {.out_to_full_device = true}},
      {"DiskFullWhileStreaming",
       [](const Path&) { return Generate(stories, {"--quiet"}); },
       {"stdout: cannot be written"},
       {.out_to_full_device = true}},
      // Options.
      {"UnknownOption",
       [](const Path&) { return Generate(stories, {"--frobnicate"}); },
       {"--frobnicate", "see palu generate --help"}},
      {"MissingArgument",
       [](const Path&) -> Args { return {"inspect"}; },
       {"MODEL is required; see palu inspect --help"}},
      {"UnknownCommand",
       [](const Path&) -> Args { return {"decompress"}; },
       {"decompress", "see palu --help"}},
      {"NotANumber",
       [](const Path&) {
         return Generate(stories, {"--max-tokens", "many"});
       },
       {"--max-tokens", "many"}},
      {"UnknownSearch",
       [](const Path& dir) {
         return Compress(dir, {"--search", "best"});
       },
       {"--search", "best", "fisher"}},
      {"NegativeTemperature",
       [](const Path&) { return Generate(stories, {"--temperature=-1"}); },
       {"temperature: expected a number of 0 or more, found -1"}},
      {"TopPAboveOne",
       [](const Path&) {
         return Generate(stories, {"--top-p", "1.5"});
       },
       {"top-p: expected a number in (0, 1], found 1.5"}},
      {"NegativeSeed",
       [](const Path&) { return Generate(stories, {"--seed=-1"}); },
       {"--seed", "see palu generate --help"}},
      {"PerItemIsADirectory",
       [](const Path& dir) -> Args {
         return {"eval", stories, "--tasks", "passkey", "--per-item", dir};
       },
       {"--per-item: ", "expected a file, found a directory"}},
      {"PerItemIsTheData",
       [](const Path& dir) -> Args {
         return {"eval",   stories, "--tasks",    "piqa",
                 "--data", dir,     "--per-item", Write(dir / "piqa.jsonl", "{}")};
       },
       {"piqa.jsonl: expected a file apart from what is read"}},
      {"BenchRatioOfAModel",
       [](const Path&) -> Args {
         return {"bench", stories, "--ratio", "0.5"};
       },
       {"--ratio requires --synthetic"}},
      {"CacheTooSmall",
       [](const Path&) -> Args {
         return {"generate", testing::Wiki(), "--prompt",        "Once", "--max-tokens",
                 "400",      "--quiet",       "--max-cache-mib", "1",    "--json"};
       },
       {"the KV cache is full after "}},
  };
  return cases;
}

class BadInput : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadInput, OneSentenceAndNothingLeft) {
  TempDir dir;
  const Args args = GetParam().prepare(dir.path());
  const auto before = Listing(dir.path());
  const RunResult result = testing::RunPalu(args, GetParam().options);
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.err.rfind("palu: ", 0), 0u) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  for (const std::string& fragment : GetParam().fragments) {
    EXPECT_NE(result.err.find(fragment), result.err.npos)
        << "expected: " << fragment << "\nin: " << result.err;
  }
  EXPECT_EQ(Listing(dir.path()), before);
}

INSTANTIATE_TEST_SUITE_P(Cases, BadInput, ::testing::ValuesIn(Cases()),
                         [](const auto& test) { return std::string(test.param.name); });

// Root reads everything, so this needs an ordinary user.
TEST(BadInputFiles, UnreadableFile) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read every file";
  TempDir dir;
  const Path model = Copy(dir.path(), "stories260k");
  std::filesystem::permissions(model / "model.safetensors", std::filesystem::perms::none);
  const RunResult result = testing::RunPalu({"inspect", model});
  EXPECT_EQ(result.status, 1);
  EXPECT_NE(result.err.find("model.safetensors: cannot open: Permission denied"), result.err.npos);
}

}  // namespace
}  // namespace palu
