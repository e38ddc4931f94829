// Ids and texts must be those of the reference libraries, to the last one.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tokenizer/fixtures.h"

namespace palu {
namespace {

using testing::Golden;
using testing::GoldenTokenizer;

class GoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, EncodesAllTexts) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  const auto& texts = Golden()["texts"];
  ASSERT_EQ(texts.size(), 353);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto expected = Golden()["ids"][GetParam()][i].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer.Encode(texts[i].get<std::string>()), expected) << i << ": " << texts[i];
  }
}

TEST_P(GoldenTest, DecodesAllTexts) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  const auto& all_ids = Golden()["ids"][GetParam()];
  ASSERT_EQ(all_ids.size(), 353);
  for (size_t i = 0; i < all_ids.size(); ++i) {
    const auto expected = Golden()["decoded"][GetParam()][i].get<std::string>();
    EXPECT_EQ(tokenizer.Decode(all_ids[i].get<std::vector<TokenId>>(), /*keep_special=*/true),
              expected)
        << i;
  }
}

TEST_P(GoldenTest, StreamingYieldsTheWholeText) {
  const Tokenizer& tokenizer = GoldenTokenizer(GetParam());
  for (const auto& json_ids : Golden()["ids"][GetParam()]) {
    const auto ids = json_ids.get<std::vector<TokenId>>();
    // From every start within the first tokens: the stream may begin inside a character or a word.
    for (size_t start = 0; start < std::min<size_t>(ids.size(), 8); ++start) {
      const std::span<const TokenId> part = std::span(ids).subspan(start);
      StreamDecoder stream(tokenizer);
      std::string text;
      for (TokenId id : part) text += stream.Push(id);
      text += stream.Finish();
      EXPECT_EQ(text, tokenizer.Decode(part));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GoldenTest,
                         ::testing::Values("llama3", "qwen2", "gpt2", "phi3", "llama2"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(GoldenTokenizers, KnowTheirSizes) {
  EXPECT_EQ(GoldenTokenizer("llama3").vocab_size(), 128011);
  EXPECT_EQ(GoldenTokenizer("qwen2").vocab_size(), 151646);
  EXPECT_EQ(GoldenTokenizer("gpt2").vocab_size(), 50295);
  EXPECT_EQ(GoldenTokenizer("phi3").vocab_size(), 32045);
  EXPECT_EQ(GoldenTokenizer("llama2").vocab_size(), 32000);
}

TEST(GoldenTokenizers, KnowTheirBos) {
  EXPECT_EQ(GoldenTokenizer("llama3").bos(), std::nullopt);
  EXPECT_EQ(GoldenTokenizer("qwen2").bos(), std::nullopt);
  EXPECT_EQ(GoldenTokenizer("gpt2").bos(), std::nullopt);
  EXPECT_EQ(GoldenTokenizer("phi3").bos(), 1);
  EXPECT_EQ(GoldenTokenizer("llama2").bos(), 1);
}

TEST(GoldenTokenizers, DecodeLeavesSpecialTokensOut) {
  const Tokenizer& llama3 = GoldenTokenizer("llama3");
  EXPECT_EQ(llama3.Decode(llama3.Encode("<|begin_of_text|>Hello<|eot_id|>")), "Hello");
  EXPECT_EQ(llama3.Decode(llama3.Encode("<|begin_of_text|>Hello<|eot_id|>"), true),
            "<|begin_of_text|>Hello<|eot_id|>");
  const Tokenizer& llama2 = GoldenTokenizer("llama2");
  EXPECT_EQ(llama2.Decode(llama2.EncodeWithBos("Hello")), "Hello");
  EXPECT_EQ(llama2.Decode(llama2.EncodeWithBos("Hello"), true), "<s> Hello");
}

}  // namespace
}  // namespace palu
