// The program itself: `palu bench` on a configuration small enough for a test.
#include <nlohmann/json.hpp>

#include "testing.h"

namespace palu {
namespace {

// Exit status of `palu bench ARGUMENTS`, whose messages go to the file `errors`.
int RunBench(const std::string& arguments, const std::filesystem::path& errors) {
  const std::string command = std::string(PALU_BUILD_DIR) + "/palu bench --threads 2 " + arguments +
                              " 2>" + errors.string();
  return std::system(command.c_str());
}

const std::string kConfig = testing::Repo("tests/data/models/stories260k/config.json").string();

TEST(BenchCommand, WritesAReportOfASyntheticModel) {
  testing::TempDir dir;
  const std::string points = " --prompt 8 --depth 0,64 --batch 1,2 --generate 2 --repetitions 1";
  ASSERT_EQ(RunBench("--quiet --synthetic " + kConfig + " --ranks 16,32 --format json --out " +
                         (dir / "report.json").string() + points,
                     dir / "errors"),
            0)
      << testing::ReadAll(dir / "errors");
  EXPECT_EQ(testing::ReadAll(dir / "errors"), "");
  const auto json = nlohmann::json::parse(testing::ReadAll(dir / "report.json"));
  EXPECT_GT(json["machine"]["read_bytes_per_second"].get<double>(), 0);
  EXPECT_GT(json["machine"]["gemm_flops_per_second"].get<double>(), 0);
  EXPECT_EQ(json["machine"]["threads"], 2);
  EXPECT_EQ(json["models"][0]["kv_bytes_per_token"], 2 * 5 * 64);  // K and V of 32 halves, 5 layers
  EXPECT_EQ(json["models"][1]["kv_bytes_per_token"], 2 * 5 * 48);
  ASSERT_EQ(json["rows"].size(), 2u * (1 + 2 * 2));  // two models
  for (const auto& row : json["rows"]) {
    EXPECT_GT(row["tokens_per_second"].get<double>(), 0) << row;
    EXPECT_GT(row["of_read_bandwidth"].get<double>(), 0) << row;
    EXPECT_EQ(row["ratio_to_first"].is_null(), row["model"] == "dense") << row;
  }
}

TEST(BenchCommand, RefusesBadInputInOneSentence) {
  testing::TempDir dir;
  const auto message = [&](const std::string& arguments) {
    EXPECT_NE(RunBench(arguments, dir / "errors"), 0) << arguments;
    return testing::ReadAll(dir / "errors");
  };
  EXPECT_EQ(message(""), "palu: give one or more model directories, or --synthetic NAME\n");
  EXPECT_EQ(message("--synthetic no-such"),
            "palu: --synthetic: expected llama-2-7b, llama-3-8b, llama-3.2-1b, mistral-7b, "
            "qwen2.5-7b or the path of a config.json, found 'no-such'\n");
  EXPECT_EQ(message("--prompt 1,x --synthetic " + kConfig),
            "palu: --prompt: expected integers from 1 to 16777216 separated by commas, found "
            "'1,x'\n");
  EXPECT_EQ(message("--ranks 16 --synthetic " + kConfig),
            "palu: --ranks: expected two ranks, keys and values, found '16'\n");
  EXPECT_EQ(message("--group-size 3 --synthetic " + kConfig),
            "palu: rank search: a group size of 3 does not divide the model's 4 KV heads\n");
}

TEST(BenchCommand, AttentionNeedsADeviceAndForms) {
  testing::TempDir dir;
  const auto message = [&](const std::string& arguments) {
    const std::string command = std::string(PALU_BUILD_DIR) + "/palu bench attention " + arguments +
                                " 2>" + (dir / "errors").string();
    EXPECT_NE(std::system(command.c_str()), 0) << arguments;
    return testing::ReadAll(dir / "errors");
  };
  EXPECT_EQ(message("--device cpu"),
            "palu: attention alone is timed on a GPU: give --device cuda\n");
  EXPECT_EQ(message("--forms 5@50"),
            "palu: --forms: expected dense or BITS@PERCENT or BITS@KEYS/VALUES, BITS one of 2, 3, "
            "4, 8, 16, after r for the rotary basis, percentages from 1 to 99, found '5@50'\n");
  EXPECT_EQ(message("--prefill --plot x.svg"),
            "palu: --plot: there is no speed-up over dense to draw with --prefill\n");
  EXPECT_EQ(message("--context none"), "palu: nothing to measure: give --context and --batch\n");
}

}  // namespace
}  // namespace palu
