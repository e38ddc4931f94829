#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "testing.h"
#include "tokenizer/small_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace palu {
namespace {

using testing::TempDir;

void Write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

TEST(LoadTokenizer, NullWithoutFiles) {
  const TempDir directory;
  EXPECT_EQ(LoadTokenizer(directory.path(), 1), nullptr);
}

TEST(LoadTokenizer, PrefersTokenizerJson) {
  const TempDir directory;
  std::filesystem::copy(testing::Repo("models/wiki-7m-mha/tokenizer.model"),
                        directory / "tokenizer.model");
  EXPECT_EQ(LoadTokenizer(directory.path(), std::nullopt)->vocab_size(), 4096);
  Write(directory / "tokenizer.json", testing::SmallJson().dump());
  EXPECT_EQ(LoadTokenizer(directory.path(), std::nullopt)->vocab_size(), 9);
}

TEST(LoadTokenizer, BosOfTokenizerJson) {
  const TempDir directory;
  Write(directory / "tokenizer.json", testing::SmallJson().dump());
  const auto bos = [&](const std::string& config) {
    Write(directory / "tokenizer_config.json", config);
    return LoadTokenizer(directory.path(), 3)->bos();
  };
  EXPECT_EQ(LoadTokenizer(directory.path(), 3)->bos(), std::nullopt);
  EXPECT_EQ(bos("{}"), std::nullopt);
  EXPECT_EQ(bos(R"({"bos_token": "<s>"})"), std::nullopt);
  EXPECT_EQ(bos(R"({"add_bos_token": false, "bos_token": "<s>"})"), std::nullopt);
  EXPECT_EQ(bos(R"({"add_bos_token": true, "bos_token": "<s>"})"), 8);
  EXPECT_EQ(bos(R"({"add_bos_token": true, "bos_token": {"content": "<s>"}})"), 8);
  EXPECT_EQ(bos(R"({"add_bos_token": true, "bos_token": null})"), 3);
}

TEST(LoadTokenizer, BosOfTokenizerModel) {
  const TempDir directory;
  std::filesystem::copy(testing::Repo("models/wiki-7m-mha/tokenizer.model"),
                        directory / "tokenizer.model");
  EXPECT_EQ(LoadTokenizer(directory.path(), std::nullopt)->bos(), 1);
  Write(directory / "tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_EQ(LoadTokenizer(directory.path(), std::nullopt)->bos(), std::nullopt);
  Write(directory / "tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "</s>"})");
  EXPECT_EQ(LoadTokenizer(directory.path(), std::nullopt)->bos(), 2);
}

TEST(LoadTokenizer, RefusesAnUnknownBosToken) {
  const TempDir directory;
  Write(directory / "tokenizer.json", testing::SmallJson().dump());
  const std::string config = (directory / "tokenizer_config.json").string();
  Write(config, R"({"add_bos_token": true, "bos_token": "<none>"})");
  EXPECT_EQ(testing::ErrorOf([&] { LoadTokenizer(directory.path(), 3); }),
            config + ": bos_token: expected a token of the vocabulary, found \"<none>\"");
  Write(config, R"({"add_bos_token": true})");
  EXPECT_EQ(testing::ErrorOf([&] { LoadTokenizer(directory.path(), std::nullopt); }),
            config + ": bos_token: expected the token that add_bos_token asks for, found nothing");
}

TEST(LoadTokenizer, NamesTheMalformedFile) {
  const TempDir directory;
  Write(directory / "tokenizer.json", "{}");
  EXPECT_EQ(testing::ErrorOf([&] { LoadTokenizer(directory.path(), 3); }),
            (directory / "tokenizer.json").string() + ": model: expected an object, found nothing");
}

}  // namespace
}  // namespace palu
