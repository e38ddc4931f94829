// The tokenizers of the demo models against what the reference library recorded with each model.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "testing.h"
#include "tokenizer/tokenizer.h"

namespace palu {
namespace {

using testing::ReadAll;
using testing::Repo;
using Ids = std::vector<TokenId>;

void ExpectTokenizesAsRecorded(const std::filesystem::path& model, const std::string& record) {
  const auto golden = nlohmann::json::parse(ReadAll(Repo("tests/data/golden/" + record)));
  const auto tokenizer = LoadTokenizer(model, std::nullopt);
  ASSERT_NE(tokenizer, nullptr);
  ASSERT_FALSE(golden["tokenize"].empty());
  for (const auto& item : golden["tokenize"]) {
    const auto ids = item["ids"].get<Ids>();
    EXPECT_EQ(tokenizer->Encode(item["text"].get<std::string>()), ids) << item["text"];
    EXPECT_EQ(tokenizer->Decode(ids), item["decoded"].get<std::string>());
  }
  ASSERT_FALSE(golden["greedy"].empty());
  for (const auto& item : golden["greedy"]) {
    EXPECT_EQ(tokenizer->EncodeWithBos(item["prompt"].get<std::string>()),
              item["prompt_ids"].get<Ids>());
    EXPECT_EQ(tokenizer->Decode(item["ids"].get<Ids>()), item["text"].get<std::string>());
  }
  const Ids wikitext = tokenizer->Encode(ReadAll(Repo("data/wikitext2_test.txt")));
  EXPECT_EQ(wikitext.size() + 1, golden["wikitext2_test_tokens"].get<size_t>());  // with BOS
  const auto first = golden["logprobs"]["ids"].get<Ids>();
  EXPECT_EQ(tokenizer->bos(), first.at(0));
  EXPECT_EQ(Ids(wikitext.begin(), wikitext.begin() + first.size() - 1),
            Ids(first.begin() + 1, first.end()));
}

TEST(ModelTokenizers, Wiki7m) {
  ExpectTokenizesAsRecorded(Repo("models/wiki-7m-mha"), "golden_wiki-7m-mha.json");
}

TEST(ModelTokenizers, Wiki18m) {
  const auto model = testing::Shared("models/wiki-18m-gqa");
  PALU_SKIP_WITHOUT(model);
  ExpectTokenizesAsRecorded(model, "golden_wiki-18m-gqa.json");
}

TEST(ModelTokenizers, Stories260k) {
  const auto golden =
      nlohmann::json::parse(ReadAll(Repo("tests/data/golden/golden_stories260k.json")));
  const auto tokenizer = LoadTokenizer(Repo("tests/data/models/stories260k"), std::nullopt);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), 512);
  const auto ids = golden["greedy_from_bos"].get<Ids>();
  const auto text = golden["text"].get<std::string>();
  EXPECT_EQ(tokenizer->bos(), ids.at(0));
  EXPECT_EQ(tokenizer->Decode(ids), text);
}

}  // namespace
}  // namespace palu
