// UTF-8, one code point at a time. Ill-formed input follows the Unicode Standard (section 3.9): the
// longest prefix of a well-formed sequence counts as one error.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace palu {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Char {
  enum class State { kValid, kMalformed, kIncomplete };  // kIncomplete: more bytes could mend it
  State state;
  size_t length;        // bytes read, at least 1
  char32_t code_point;  // meaningful when valid
};

// The character at `text[at]`; needs at < text.size().
Utf8Char ReadUtf8(std::string_view text, size_t at);

void AppendUtf8(char32_t code_point, std::string* out);

bool IsValidUtf8(std::string_view text);

// `text` with each error replaced by U+FFFD.
std::string SanitizeUtf8(std::string_view text);

}  // namespace palu
