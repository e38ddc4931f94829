#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/utf8.h"

namespace palu {
namespace {

constexpr size_t kLetterLimit = 0x100 + 68;  // one past the largest letter

struct Alphabet {
  std::array<std::string, 256> letters;
  std::array<int16_t, kLetterLimit> bytes;

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      // Printable Latin-1 stands for itself; the rest is numbered from U+0100 on.
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const char32_t letter = printable ? static_cast<char32_t>(byte) : next++;
      AppendUtf8(letter, &letters[byte]);
      bytes[letter] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string_view ByteLetter(uint8_t byte) { return TheAlphabet().letters[byte]; }

std::optional<uint8_t> LetterByte(char32_t code_point) {
  if (code_point >= kLetterLimit || TheAlphabet().bytes[code_point] < 0) return std::nullopt;
  return static_cast<uint8_t>(TheAlphabet().bytes[code_point]);
}

std::string TokenBytes(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const Utf8Char c = ReadUtf8(token, at);
    const auto byte = LetterByte(c.code_point);
    if (c.state != Utf8Char::State::kValid || !byte) return std::string(token);
    bytes.push_back(static_cast<char>(*byte));
    at += c.length;
  }
  return bytes;
}

}  // namespace palu
