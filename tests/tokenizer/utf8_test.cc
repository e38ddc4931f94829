#include "tokenizer/utf8.h"

#include <gtest/gtest.h>

#include <string>

#include "tokenizer/byte_level.h"

namespace palu {
namespace {

using State = Utf8Char::State;

TEST(Utf8, RoundTripsEveryCodePoint) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Char read = ReadUtf8(text, 0);
    ASSERT_TRUE(read.state == State::kValid && read.code_point == c && read.length == text.size())
        << std::hex << static_cast<uint32_t>(c);
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const Utf8Char part = ReadUtf8(std::string_view(text).substr(0, cut), 0);
      ASSERT_TRUE(part.state == State::kIncomplete && part.length == cut);
    }
  }
}

TEST(Utf8, RejectsWhatUnicodeRejects) {
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(bad));
    EXPECT_EQ(ReadUtf8(bad, 0).state, State::kMalformed);
  }
}

// The example of the Unicode Standard, table 3-11: one U+FFFD for each maximal subpart.
TEST(Utf8, SanitizesByMaximalSubparts) {
  EXPECT_EQ(SanitizeUtf8("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(SanitizeUtf8("caf\u00e9 \U0001F642"), "caf\u00e9 \U0001F642");
  EXPECT_EQ(SanitizeUtf8(""), "");
}

TEST(ByteLevel, AlphabetIsABijection) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto letter = ByteLetter(static_cast<uint8_t>(byte));
    EXPECT_EQ(LetterByte(ReadUtf8(letter, 0).code_point), byte);
    EXPECT_EQ(TokenBytes(letter), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(ByteLetter(' '), "\u0120");
  EXPECT_EQ(ByteLetter('\n'), "\u010A");
  EXPECT_EQ(LetterByte(U' '), std::nullopt);
  EXPECT_EQ(TokenBytes("\u0120a"), " a");
  EXPECT_EQ(TokenBytes("two words"), "two words");  // a space is no letter: taken as it stands
}

}  // namespace
}  // namespace palu
