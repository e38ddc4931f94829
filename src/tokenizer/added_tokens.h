// The tokens that are found in the text itself, before any merging: special tokens, and words that
// were added to the vocabulary after training.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/surface.h"

namespace palu {

struct AddedToken {
  TokenId id;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space in front along
  bool rstrip = false;       // and behind
  bool normalized = true;    // looked for in the normalised text, not in the original
  bool special = false;      // left out of decoded text
};

// A stretch of text, or one added token in its place.
struct TextPart {
  std::string_view text;
  std::optional<TokenId> token;
};

class AddedTokenMatcher {
 public:
  // Of tokens with equal content the first counts; empty ones are ignored.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // `text` in order, cut at the leftmost and there longest tokens; no empty parts.
  std::vector<TextPart> Split(std::string_view text) const;

 private:
  // Index into tokens_ of the longest one at the front of `text`, or -1.
  int LongestAt(std::string_view text) const;

  static constexpr uint64_t Edge(uint32_t node, char byte) {
    return static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
  }

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, uint32_t> children_;    // trie: edge to node; node 0 is the root
  std::vector<int> token_at_node_{-1};                 // index into tokens_, -1 where none ends
  std::vector<bool> starts_ = std::vector<bool>(256);  // bytes that some token starts with
};

}  // namespace palu
