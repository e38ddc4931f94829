// `palu eval --tasks passkey` as a user runs it.
#include "apps/run.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::Args;
using testing::Ok;
using testing::OkJson;
using testing::RunPalu;
using testing::TempDir;
using testing::Wiki;

Args Command(const Args& more) {
  Args args{"eval", Wiki(), "--tasks", "passkey", "--depths", "2", "--trials", "1", "--quiet"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST(EvalPasskeyCli, JsonHasTheGridAndPlotsAreWritten) {
  TempDir dir;
  const std::string out = dir / "plots", items = dir / "items";
  const json result = OkJson(Command({"--lengths", "128,256", "--out", out, "--per-item", items}));
  const json& task = result["tasks"]["passkey"];
  EXPECT_EQ(task["n"], 4);
  EXPECT_EQ(task["acc"], 1.0);
  ASSERT_EQ(task["grid"].size(), 4u);
  EXPECT_EQ(task["grid"][1], (json{{"length", 128}, {"depth", 0.75}, {"acc", 1.0}, {"n", 1}}));
  EXPECT_EQ(task["grid"][2]["length"], 256);
  EXPECT_EQ(testing::Listing(out), (std::set<std::string>{"passkey.png", "passkey.svg"}));
  EXPECT_TRUE(testing::ReadAll(out + "/passkey.svg").ends_with("</svg>\n"));

  std::ifstream in(items);
  std::string line;
  ASSERT_TRUE(std::getline(in, line));
  const json item = json::parse(line);
  EXPECT_EQ(item["task"], "passkey");
  EXPECT_EQ(item["acc"], true);
  EXPECT_NE(item["answer"].get<std::string>().find(item["key"].get<std::string>()),
            std::string::npos);
}

// Where PLplot's drivers have been moved away, what was measured is reported all the same.
TEST(EvalPasskeyCli, WithoutPlotDriversOneSentenceWarns) {
  TempDir dir;
  for (const std::string& drivers : {(dir / "no-such").string(), dir.path().string()}) {
    setenv("PLPLOT_DRV_DIR", drivers.c_str(), 1);
    const auto result = Ok(Command({"--lengths", "128", "--out", dir / "plots", "--json"}));
    unsetenv("PLPLOT_DRV_DIR");
    EXPECT_EQ(json::parse(result.out)["tasks"]["passkey"]["n"], 2);
    EXPECT_NE(result.err.find("plots: PLplot finds no driver svgcairo: install plplot-driver-cairo "
                              "or unset PLPLOT_DRV_DIR\n"),
              result.err.npos)
        << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_FALSE(std::filesystem::exists(dir / "plots"));
  }
}

TEST(EvalPasskeyCli, LengthsBeyondTheContextAreLeftOut) {
  const auto result = Ok(Command({"--lengths", "128,4096", "--json"}));
  EXPECT_NE(result.err.find("passkey: 4096 tokens are left out, the model's context is 2048"),
            result.err.npos)
      << result.err;
  EXPECT_EQ(json::parse(result.out)["tasks"]["passkey"]["n"], 2);
}

TEST(EvalPasskeyCli, SeedChoosesTheKeys) {
  TempDir dir;
  const auto items = [&](const std::string& seed) {
    const std::string file = dir / seed;
    Ok(Command({"--lengths", "128", "--seed", seed, "--per-item", file}));
    return testing::ReadAll(file);
  };
  const std::string first = items("1");
  EXPECT_EQ(items("1"), first);
  EXPECT_NE(items("2"), first);
}

TEST(EvalPasskeyCli, Refusals) {
  TempDir dir;
  const auto error = [](const Args& more) {
    const auto result = RunPalu(Command(more));
    EXPECT_EQ(result.status, 1);
    EXPECT_EQ(result.out, "");
    return result.err;
  };
  EXPECT_EQ(error({"--lengths", "4096,9999"}),
            "palu: --lengths: expected one within the model's context of 2048 tokens, found "
            "4096,9999\n");
  EXPECT_NE(error({"--lengths", "12"}).find("pass key: expected a length of at least "),
            std::string::npos);
  EXPECT_NE(error({"--lengths", "128", "--out", dir / "no" / "where"})
                .find("expected a directory, or a new name in one"),
            std::string::npos);
  std::ofstream(dir / "empty");
  EXPECT_EQ(error({"--lengths", "128", "--filler", dir / "empty"}),
            "palu: pass key: the filler text is empty\n");
}

}  // namespace
}  // namespace palu
