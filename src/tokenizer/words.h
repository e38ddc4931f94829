// Words of a text, for encoders in which no token reaches from the end of one word into the next:
// there each word has ids of its own, and repeated words need encoding only once.
#pragma once

#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/surface.h"

namespace palu {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, SentencePiece's space

// A word is any number of `mark`s and what follows up to the next one. Where the word of `text`
// that begins at `begin` ends.
inline size_t EndOfWord(std::string_view text, size_t begin, std::string_view mark) {
  while (text.substr(begin).starts_with(mark)) begin += mark.size();
  const size_t end = text.find(mark, begin);
  return end == std::string_view::npos ? text.size() : end;
}

// True where `token` could only come from text that reaches over the end of a word.
inline bool SpansWords(std::string_view token, std::string_view mark) {
  return EndOfWord(token, 0, mark) != token.size();
}

// Remembers where in `ids` the ids of each word stand.
class WordCache {
 public:
  explicit WordCache(std::vector<TokenId>* ids) : ids_(*ids) {}

  // Appends the ids of `word`, whose characters must outlive this object: those of its first
  // occurrence, which `encode()` had to append.
  template <class Encode>
  void Append(std::string_view word, Encode&& encode) {
    const auto [entry, is_new] = seen_.try_emplace(word, ids_.size(), 0);
    auto& [begin, length] = entry->second;
    if (is_new) {
      encode();
      length = ids_.size() - begin;
      return;
    }
    for (size_t i = begin; i < begin + length; ++i) ids_.push_back(TokenId{ids_[i]});
  }

 private:
  std::vector<TokenId>& ids_;
  std::unordered_map<std::string_view, std::pair<size_t, size_t>> seen_;  // begin, length
};

}  // namespace palu
