#include "tokenizer/hf_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "testing.h"
#include "tokenizer/small_tokenizer.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::Parse;
using testing::SmallJson;
using Ids = std::vector<TokenId>;

TEST(HfTokenizer, MergesInOrderOfRank) {
  const auto tokenizer = Parse(SmallJson());
  EXPECT_EQ(tokenizer->Encode("abcd ab"), (Ids{7, 4, 5, 6}));
  EXPECT_EQ(tokenizer->Encode("acbcab"), (Ids{1, 3, 2, 3, 6}));
  EXPECT_EQ(tokenizer->Encode(""), Ids{});
}

TEST(HfTokenizer, UnknownCharacters) {
  json small = SmallJson();
  EXPECT_EQ(Parse(small)->Encode("axya"), (Ids{1, 0, 0, 1}));
  small["model"]["fuse_unk"] = true;
  EXPECT_EQ(Parse(small)->Encode("axya"), (Ids{1, 0, 1}));
  small["model"]["unk_token"] = nullptr;
  EXPECT_EQ(Parse(small)->Encode("axyb"), (Ids{6}));
}

TEST(HfTokenizer, ByteFallback) {
  json small = SmallJson();
  small["model"]["byte_fallback"] = true;
  small["model"]["vocab"]["<0xC3>"] = 9;
  small["model"]["vocab"]["<0xA9>"] = 10;
  small["decoder"] = {{"type", "Sequence"},
                      {"decoders", {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}};
  const auto tokenizer = Parse(small);
  EXPECT_EQ(tokenizer->Encode("a\u00e9"), (Ids{1, 9, 10}));
  EXPECT_EQ(tokenizer->Encode("a\u00e8"), (Ids{1, 0}));  // not all its bytes are in the vocabulary
  EXPECT_EQ(tokenizer->Decode(Ids{1, 9, 10}), "a\u00e9");
  EXPECT_EQ(tokenizer->Decode(Ids{9, 10, 9, 1}), "\uFFFD\uFFFD\uFFFDa");  // the whole run is bad
}

TEST(HfTokenizer, IgnoreMergesTakesWholePieces) {
  json small = SmallJson();
  small["model"]["merges"] = json::array();
  EXPECT_EQ(Parse(small)->Encode("abc"), (Ids{1, 2, 3}));
  small["model"]["ignore_merges"] = true;
  EXPECT_EQ(Parse(small)->Encode("abc"), (Ids{7}));
}

TEST(HfTokenizer, NormalisesToNfc) {
  json small = SmallJson();
  small["model"]["vocab"]["\u00e9"] = 9;
  EXPECT_EQ(Parse(small)->Encode("e\u0301"), (Ids{0, 0}));
  small["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(Parse(small)->Encode("e\u0301a"), (Ids{9, 1}));
}

TEST(HfTokenizer, SplitBehaviors) {
  json small = SmallJson();
  const auto encode = [&](const std::string& behavior, bool invert) {
    small["pre_tokenizer"] = {{"type", "Split"},
                              {"pattern", {{"String", "b"}}},
                              {"behavior", behavior},
                              {"invert", invert}};
    return Parse(small)->Encode("abbab");
  };
  EXPECT_EQ(encode("Isolated", false), (Ids{1, 2, 2, 1, 2}));
  EXPECT_EQ(encode("Removed", false), (Ids{1, 1}));
  EXPECT_EQ(encode("Removed", true), (Ids{2, 2, 2}));
  EXPECT_EQ(encode("MergedWithPrevious", false), (Ids{6, 2, 6}));
  EXPECT_EQ(encode("MergedWithNext", false), (Ids{1, 2, 2, 1, 2}));
  EXPECT_EQ(encode("Contiguous", false), (Ids{1, 2, 2, 1, 2}));
}

TEST(HfTokenizer, MetaspacePrependsAndDecodes) {
  json small = SmallJson();
  small["model"]["vocab"]["\u2581"] = 9;
  const auto with = [&](const std::string& scheme) {
    small["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", scheme}};
    small["decoder"] = small["pre_tokenizer"];
    return Parse(small);
  };
  EXPECT_EQ(with("always")->Encode("a b<s>c"), (Ids{9, 1, 9, 2, 8, 9, 3}));
  EXPECT_EQ(with("first")->Encode("a b<s>c"), (Ids{9, 1, 9, 2, 8, 3}));
  EXPECT_EQ(with("first")->Encode("<s>c"), (Ids{8, 3}));
  EXPECT_EQ(with("never")->Encode("a b<s>c"), (Ids{1, 9, 2, 8, 3}));
  EXPECT_EQ(with("always")->Decode(Ids{9, 1, 9, 2}), "a b");
  EXPECT_EQ(with("never")->Decode(Ids{9, 1, 9, 2}), " a b");
}

TEST(HfTokenizer, IllFormedTextBecomesReplacementCharacters) {
  json small = SmallJson();
  small["model"]["vocab"]["\uFFFD"] = 9;
  EXPECT_EQ(Parse(small)->Encode("a\xFF\xE4\xB8z"), (Ids{1, 9, 9, 0}));
}

TEST(HfTokenizer, PostProcessorNamesBos) {
  json small = SmallJson();
  EXPECT_EQ(Parse(small)->bos(), std::nullopt);
  const json processor = json::parse(R"({
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [8], "tokens": ["<s>"]}}})");
  small["post_processor"] = {{"type", "Sequence"},
                             {"processors", {{{"type", "ByteLevel"}}, processor}}};
  const auto tokenizer = Parse(small);
  EXPECT_EQ(tokenizer->bos(), 8);
  EXPECT_EQ(tokenizer->EncodeWithBos("a"), (Ids{8, 1}));
  EXPECT_EQ(tokenizer->Decode(Ids{8, 1}), "a");
  EXPECT_EQ(tokenizer->Decode(Ids{8, 1}, /*keep_special=*/true), "<s>a");
}

TEST(HfTokenizer, FindsTokens) {
  const auto tokenizer = Parse(SmallJson());
  EXPECT_EQ(tokenizer->Find("abc"), 7);
  EXPECT_EQ(tokenizer->Find("<s>"), 8);
  EXPECT_EQ(tokenizer->Find("abcd"), std::nullopt);
  EXPECT_EQ(tokenizer->vocab_size(), 9);
}

TEST(HfTokenizer, DecodeRefusesForeignIds) {
  const auto tokenizer = Parse(SmallJson());
  EXPECT_EQ(testing::ErrorOf([&] {
              tokenizer->Decode(Ids{1, 9});
            }),
            "expected a token id from 0 to 8, found 9");
  EXPECT_EQ(testing::ErrorOf([&] { tokenizer->Decode(Ids{-1}); }),
            "expected a token id from 0 to 8, found -1");
}

// A text without any place to cut must not take quadratic time: this one would then take minutes.
TEST(HfTokenizer, LongPiecesAreFast) {
  const auto tokenizer = Parse(SmallJson());
  std::string text;
  for (int i = 0; i < 500'000; ++i) text += "ab";
  EXPECT_EQ(tokenizer->Encode(text), Ids(500'000, 6));
}

}  // namespace
}  // namespace palu
