#include "tokenizer/utf8.h"

namespace palu {
namespace {

bool IsContinuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

// The lead byte decides the length and the range of the second byte (Unicode, table 3-7); narrowing
// that range is what keeps out overlong forms, surrogates and values above U+10FFFF.
struct Lead {
  size_t length;  // 0: no sequence starts with this byte
  unsigned char second_low;
  unsigned char second_high;
};

Lead Classify(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char ReadUtf8(std::string_view text, size_t at) {
  using State = Utf8Char::State;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const Lead lead = Classify(byte(0));
  if (lead.length == 0) return {State::kMalformed, 1, 0};
  if (lead.length == 1) return {State::kValid, 1, byte(0)};
  char32_t code_point = byte(0) & (0x7F >> lead.length);
  for (size_t i = 1; i < lead.length; ++i) {
    if (at + i == text.size()) return {State::kIncomplete, i, 0};
    const bool fits = i == 1 ? byte(1) >= lead.second_low && byte(1) <= lead.second_high
                             : IsContinuation(byte(i));
    if (!fits) return {State::kMalformed, i, 0};
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  return {State::kValid, lead.length, code_point};
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto tail = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | (code_point >> shift & 0x3F)));
  };
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xC0 | code_point >> 6));
    tail(0);
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | code_point >> 12));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | code_point >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool IsValidUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = ReadUtf8(text, at);
    if (c.state != Utf8Char::State::kValid) return false;
    at += c.length;
  }
  return true;
}

std::string SanitizeUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = ReadUtf8(text, at);
    out += c.state == Utf8Char::State::kValid ? text.substr(at, c.length) : kReplacementCharacter;
    at += c.length;
  }
  return out;
}

}  // namespace palu
