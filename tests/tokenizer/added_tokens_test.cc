#include "tokenizer/added_tokens.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace palu {
namespace {

// The parts of `text` as one line: text in brackets, tokens as numbers.
std::string Split(const std::vector<AddedToken>& tokens, std::string_view text) {
  std::string line;
  for (const TextPart& part : AddedTokenMatcher(tokens).Split(text)) {
    line += part.token ? fmt::format("{}", *part.token) : fmt::format("[{}]", part.text);
  }
  return line;
}

AddedToken Token(TokenId id, std::string content) {
  AddedToken token;
  token.id = id;
  token.content = std::move(content);
  return token;
}

TEST(AddedTokens, TakesLeftmostAndLongest) {
  const std::vector<AddedToken> tokens = {Token(1, "<s>"), Token(2, "<s>>"), Token(3, "s>>x")};
  EXPECT_EQ(Split(tokens, "a<s>>x<s>"), "[a]2[x]1");
  EXPECT_EQ(Split(tokens, "<s><s"), "1[<s]");
  EXPECT_EQ(Split(tokens, "s>>x"), "3");
  EXPECT_EQ(Split(tokens, ""), "");
  EXPECT_EQ(Split({}, "plain"), "[plain]");
}

TEST(AddedTokens, FirstOfEqualContentsCountsAndEmptyOnesNever) {
  EXPECT_EQ(Split({Token(1, "x"), Token(2, "x"), Token(3, "")}, "axb"), "[a]1[b]");
}

TEST(AddedTokens, StripsSpaceOnItsSides) {
  AddedToken left = Token(1, "<l>");
  left.lstrip = true;
  AddedToken right = Token(2, "<r>");
  right.rstrip = true;
  EXPECT_EQ(Split({left, right}, "a \t<l> b"), "[a]1[ b]");
  EXPECT_EQ(Split({left, right}, "a <r> \n\u3000b"), "[a ]2[b]");
  EXPECT_EQ(Split({left, right}, "<r>  <l>"), "21");
  EXPECT_EQ(Split({left, right}, " <l>"), "1");
  EXPECT_EQ(Split({left, right}, "<r> "), "2");
  // U+200B is no white space.
  EXPECT_EQ(Split({left, right}, "a\u200b<l>"), "[a\u200b]1");
}

TEST(AddedTokens, SingleWordsTouchNoWordCharacter) {
  AddedToken word = Token(1, "cat");
  word.single_word = true;
  EXPECT_EQ(Split({word}, "cat, cat"), "1[, ]1");
  EXPECT_EQ(Split({word}, "cats"), "[cats]");
  EXPECT_EQ(Split({word}, "\u00e9cat"), "[\u00e9cat]");
  EXPECT_EQ(Split({word}, "_cat cat_ 1cat"), "[_cat cat_ 1cat]");
  EXPECT_EQ(Split({word}, "\u2014cat!"), "[\u2014]1[!]");
}

}  // namespace
}  // namespace palu
