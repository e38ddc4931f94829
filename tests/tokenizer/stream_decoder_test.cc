#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tokenizer/fixtures.h"

namespace palu {
namespace {

using testing::GoldenTokenizer;
using Ids = std::vector<TokenId>;

TEST(StreamDecoder, HoldsBackUnfinishedCharacters) {
  const Tokenizer& gpt2 = GoldenTokenizer("gpt2");
  const Ids ids = gpt2.Encode("\U0001F642");
  ASSERT_EQ(ids.size(), 2);  // "\xF0\x9F\x99" and "\x82"
  StreamDecoder stream(gpt2);
  EXPECT_EQ(stream.Push(ids[0]), "");
  EXPECT_EQ(stream.Push(ids[1]), "\U0001F642");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(StreamDecoder, UnfinishedCharactersEndAsReplacement) {
  const Tokenizer& gpt2 = GoldenTokenizer("gpt2");
  const TokenId first = gpt2.Encode("\U0001F642")[0];
  StreamDecoder stream(gpt2);
  EXPECT_EQ(stream.Push(first), "");
  EXPECT_EQ(stream.Push(*gpt2.Find("A")), "\uFFFDA");
  EXPECT_EQ(stream.Push(first), "");
  EXPECT_EQ(stream.Finish(), "\uFFFD");
}

TEST(StreamDecoder, StripsTheLeadingSpaceOnce) {
  const Tokenizer& llama2 = GoldenTokenizer("llama2");
  const Ids ids = llama2.EncodeWithBos("Hello Hello");
  ASSERT_EQ(ids.size(), 3);
  StreamDecoder stream(llama2);
  EXPECT_EQ(stream.Push(ids[0]), "");
  EXPECT_EQ(stream.Push(ids[1]), "Hello");
  EXPECT_EQ(stream.Push(ids[2]), " Hello");
}

TEST(StreamDecoder, RefusesForeignIds) {
  const Tokenizer& llama2 = GoldenTokenizer("llama2");
  StreamDecoder stream(llama2);
  EXPECT_EQ(testing::ErrorOf([&] { stream.Push(32000); }),
            "expected a token id from 0 to 31999, found 32000");
}

// Random ids are mostly ill-formed byte sequences.
TEST(StreamDecoder, EqualsDecodeOnRandomIds) {
  std::mt19937 random(7);
  for (const char* name : {"gpt2", "qwen2", "phi3", "llama2"}) {
    const Tokenizer& tokenizer = GoldenTokenizer(name);
    for (int round = 0; round < 500; ++round) {
      Ids ids(1 + random() % 12);
      // Low ids are the single bytes in all four vocabularies.
      const int64_t limit = round % 2 == 0 ? 260 : tokenizer.vocab_size();
      for (TokenId& id : ids) id = static_cast<TokenId>(random() % limit);
      StreamDecoder stream(tokenizer);
      std::string text;
      for (TokenId id : ids) text += stream.Push(id);
      text += stream.Finish();
      EXPECT_EQ(text, tokenizer.Decode(ids));
    }
  }
}

// One bad byte turns a run of bytes into U+FFFD for the byte-fallback decoder of phi3, and only
// itself for SentencePiece, which llama2 has.
TEST(StreamDecoder, IllFormedRunsOfBytes) {
  for (const char* name : {"phi3", "llama2"}) {
    const Tokenizer& tokenizer = GoldenTokenizer(name);
    Ids ids;
    for (const char* byte : {"<0xE4>", "<0xB8>", "<0xAD>", "<0xE4>", "<0xB8>"}) {
      ids.push_back(*tokenizer.Find(byte));
    }
    EXPECT_EQ(tokenizer.Decode(ids), std::string(name) == "phi3" ? "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"
                                                                 : "\u4e2d\uFFFD\uFFFD");
  }
}

}  // namespace
}  // namespace palu
