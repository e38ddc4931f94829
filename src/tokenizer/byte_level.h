// The alphabet of byte-level BPE (GPT-2): each of the 256 bytes is written as one printable
// character, so that vocabularies and merges are ordinary text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace palu {

// The letter of `byte`, UTF-8.
std::string_view ByteLetter(uint8_t byte);

// The byte whose letter is `code_point`, if it is a letter at all.
std::optional<uint8_t> LetterByte(char32_t code_point);

// The bytes that a token stands for. A token with a character outside the alphabet (an added token)
// stands for its own UTF-8.
std::string TokenBytes(std::string_view token);

}  // namespace palu
