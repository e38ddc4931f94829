// Malformed and hostile tokenizer files: one sentence that names the file, the field, what was
// expected and what was found.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "testing.h"
#include "tokenizer/sentencepiece_tokenizer.h"
#include "tokenizer/small_tokenizer.h"

namespace palu {
namespace {

using nlohmann::json;
using testing::ErrorOf;
using testing::Parse;
using testing::SmallJson;

// The message that the small tokenizer gives after `change`.
std::string ErrorAfter(const std::function<void(json&)>& change) {
  json small = SmallJson();
  change(small);
  return ErrorOf([&] { Parse(small); });
}

TEST(HostileTokenizer, NotJson) {
  EXPECT_TRUE(ErrorOf([] {
                ParseHfTokenizer("{\"model\":", "t.json");
              }).starts_with("t.json: expected well-formed JSON, found: "));
  EXPECT_EQ(ErrorOf([] { ParseHfTokenizer("[1]", "t.json"); }),
            "t.json: expected an object, found an array");
  EXPECT_EQ(ErrorOf([] { ParseHfTokenizer("{}", "t.json"); }),
            "t.json: model: expected an object, found nothing");
}

TEST(HostileTokenizer, WrongModel) {
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["type"] = "WordPiece"; }),
            "t.json: model.type: expected BPE, found \"WordPiece\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["vocab"] = json::array(); }),
            "t.json: model.vocab: expected an object, found an array");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["unk_token"] = "nope"; }),
            "t.json: model.unk_token: expected a token of model.vocab, found \"nope\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }),
            "t.json: model.end_of_word_suffix: expected nothing, found \"</w>\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["byte_fallback"] = 1; }),
            "t.json: model.byte_fallback: expected true or false, found 1");
}

TEST(HostileTokenizer, WrongIds) {
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["vocab"]["d"] = -4; }),
            "t.json: model.vocab[\"d\"]: expected an integer from 0 to 16777215, found -4");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["vocab"]["d"] = 1ull << 63; }),
            "t.json: model.vocab[\"d\"]: expected an integer from 0 to 16777215, found "
            "9223372036854775808");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["vocab"]["d"] = "4"; }),
            "t.json: model.vocab[\"d\"]: expected an integer from 0 to 16777215, found \"4\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["vocab"]["d"] = 3; }),
            "t.json: model.vocab: expected one id for each token, found 3 for \"c\" and \"d\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["vocab"]["d"] = 16'000'000; }),
            "t.json: expected ids with few gaps, found 9 tokens and id 16000000");
}

TEST(HostileTokenizer, WrongAddedTokens) {
  EXPECT_EQ(ErrorAfter([](json& j) { j["added_tokens"][0]["id"] = 3; }),
            "t.json: added_tokens: expected an id of its own for \"<s>\", found 3, that of \"c\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["added_tokens"][0]["content"] = "c"; }),
            "t.json: added_tokens[0].id: expected the id that \"c\" has elsewhere, found 8");
  EXPECT_EQ(ErrorAfter([](json& j) {
              j["added_tokens"].push_back({{"id", 8}, {"content", "x"}});
            }),
            "t.json: added_tokens[1].id: expected an id other than that of \"<s>\", found 8");
  EXPECT_EQ(ErrorAfter([](json& j) { j["added_tokens"][0]["lstrip"] = "yes"; }),
            "t.json: added_tokens[0].lstrip: expected true or false, found \"yes\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["added_tokens"] = {7}; }),
            "t.json: added_tokens[0]: expected an object, found 7");
}

TEST(HostileTokenizer, WrongMerges) {
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["merges"][0] = "a x"; }),
            "t.json: model.merges[0]: expected tokens of model.vocab, found \"x\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["merges"][1] = "c d"; }),
            "t.json: model.merges[1]: expected tokens of model.vocab, found \"cd\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["merges"][1] = "abc"; }),
            "t.json: model.merges[1]: expected two tokens, found \"abc\"");
  EXPECT_EQ(ErrorAfter([](json& j) {
              j["model"]["merges"][1] = {"a", 1};
            }),
            "t.json: model.merges[1]: expected two tokens, found an array");
  EXPECT_EQ(ErrorAfter([](json& j) { j["model"]["merges"] = "a b"; }),
            "t.json: model.merges: expected an array, found \"a b\"");
}

TEST(HostileTokenizer, UnsupportedComponents) {
  EXPECT_EQ(ErrorAfter([](json& j) {
              j["normalizer"] = {{"type", "Lowercase"}};
            }),
            "t.json: normalizer.type: expected NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence, "
            "found \"Lowercase\"");
  EXPECT_EQ(ErrorAfter([](json& j) {
              j["pre_tokenizer"] = {{"type", "Whitespace"}};
            }),
            "t.json: pre_tokenizer.type: expected ByteLevel, Digits, Metaspace, Split or Sequence, "
            "found \"Whitespace\"");
  EXPECT_EQ(ErrorAfter([](json& j) {
              j["decoder"] = {{"type", "CTC"}};
            }),
            "t.json: decoder.type: expected ByteFallback, ByteLevel, Fuse, Metaspace, Replace, "
            "Strip or Sequence, found \"CTC\"");
  EXPECT_EQ(ErrorAfter([](json& j) { j["decoder"] = nullptr; }),
            "t.json: decoder: expected a decoder, found nothing");
  EXPECT_EQ(ErrorAfter([](json& j) {
              j["post_processor"] = {{"type", "RobertaProcessing"}};
            }),
            "t.json: post_processor.type: expected ByteLevel, TemplateProcessing or Sequence, "
            "found \"RobertaProcessing\"");
}

TEST(HostileTokenizer, DecodersOutOfOrder) {
  const auto decoders = [](json first, json second) {
    return [=](json& j) {
      j["decoder"] = {{"type", "Sequence"}, {"decoders", json::array({first, second})}};
    };
  };
  EXPECT_EQ(ErrorAfter(decoders({{"type", "Fuse"}}, {{"type", "ByteFallback"}})),
            "t.json: decoder.decoders[1].type: expected decoders in the order Replace, "
            "ByteFallback, Fuse, Strip, found \"ByteFallback\"");
  EXPECT_EQ(ErrorAfter(decoders({{"type", "Fuse"}}, {{"type", "ByteLevel"}})),
            "t.json: decoder.decoders[1].type: expected a decoder that combines with others, "
            "found \"ByteLevel\"");
}

// Deeper than any stack would bear if the reader followed it. Put together as text, since writing
// such a value is itself recursive.
TEST(HostileTokenizer, DeepNesting) {
  std::string text = SmallJson().dump();
  const std::string field = "\"normalizer\":";
  ASSERT_NE(text.find(field + "null"), std::string::npos);
  constexpr int kDepth = 100'000;
  std::string nested;
  for (int i = 0; i < kDepth; ++i) nested += R"({"type":"Sequence","normalizers":[)";
  for (int i = 0; i < kDepth; ++i) nested += "]}";
  text.replace(text.find(field + "null"), field.size() + 4, field + nested);
  EXPECT_EQ(ErrorOf([&] { ParseHfTokenizer(text, "t.json"); }),
            "t.json: normalizer: expected at most 8 nested sequences, found more");
}

json SplitBy(const std::string& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
}

TEST(HostileTokenizer, BadPatterns) {
  EXPECT_TRUE(ErrorAfter([](json& j) { j["pre_tokenizer"] = SplitBy("(a"); })
                  .starts_with("t.json: pre_tokenizer.pattern.Regex: expected a regular "
                               "expression, found one with an error: "));
  EXPECT_TRUE(ErrorAfter([](json& j) {
                j["pre_tokenizer"] = SplitBy("((a{999}){999}){999}");
              }).starts_with("t.json: pre_tokenizer.pattern.Regex: expected a regular"));
  EXPECT_EQ(ErrorAfter([](json& j) { j["pre_tokenizer"] = SplitBy(""); }),
            "t.json: pre_tokenizer.pattern.Regex: expected a pattern of 1 to 65536 bytes, found 0");
  EXPECT_EQ(ErrorAfter([](json& j) {
              j["pre_tokenizer"] = SplitBy("a");
              j["pre_tokenizer"]["behavior"] = "Explode";
            }),
            "t.json: pre_tokenizer.behavior: expected Isolated, Removed, MergedWithPrevious, "
            "MergedWithNext or Contiguous, found \"Explode\"");
}

TEST(HostileTokenizer, CatastrophicPatternStops) {
  json small = SmallJson();
  small["pre_tokenizer"] = SplitBy("(a|aa|a?)+$");
  const auto tokenizer = Parse(small);
  EXPECT_TRUE(ErrorOf([&] { tokenizer->Encode(std::string(60, 'a') + "b"); })
                  .starts_with("t.json: pre_tokenizer.pattern.Regex: expected a pattern that "
                               "matches in reasonable time, found: "));
}

TEST(HostileTokenizer, ExplodingNormalizerStops) {
  json doubling = json::array();
  for (int i = 0; i < 60; ++i) {
    doubling.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  }
  json small = SmallJson();
  small["normalizer"] = {{"type", "Sequence"}, {"normalizers", doubling}};
  EXPECT_EQ(ErrorOf([&] { Parse(small)->Encode("a"); }),
            "expected replaced text of at most 4160 bytes, found more");
}

TEST(HostileTokenizer, NotSentencePiece) {
  EXPECT_TRUE(ErrorOf([] {
                ParseSentencePiece("no protobuf", "t.model");
              }).starts_with("t.model: expected a SentencePiece model, found"));
  EXPECT_TRUE(ErrorOf([] {
                ParseSentencePiece("", "t.model");
              }).starts_with("t.model: expected a SentencePiece model, found"));
  const std::string whole = testing::ReadAll(testing::Repo("models/wiki-7m-mha/tokenizer.model"));
  EXPECT_TRUE(ErrorOf([&] {
                ParseSentencePiece(whole.substr(0, whole.size() / 2), "t.model");
              }).starts_with("t.model: expected a SentencePiece model, found"));
}

}  // namespace
}  // namespace palu
