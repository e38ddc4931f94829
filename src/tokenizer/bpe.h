// Byte-pair encoding: a piece of text becomes characters, and the neighbours whose merge comes
// first in the training order are joined until none is left (Sennrich et al. 2016, section 3.2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/merge_table.h"
#include "tokenizer/surface.h"
#include "tokenizer/words.h"

namespace palu {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

using Vocabulary = std::unordered_map<std::string, TokenId, StringHash, std::equal_to<>>;

struct BpeOptions {
  std::optional<TokenId> unknown;  // what a character outside the vocabulary becomes, if anything
  bool fuse_unknown = false;       // neighbouring unknown characters become one token
  bool byte_fallback = false;      // but first try one token <0xHH> per byte
  bool whole_piece_first = false;  // a piece that is itself a token is taken without merging
};

class Bpe {
 public:
  Bpe(Vocabulary vocabulary, MergeTable merges, BpeOptions options);

  // Memory that many pieces share, so that a piece costs no allocation.
  struct Scratch {
    struct Symbol {
      TokenId id;
      uint32_t rank;  // of merging with the next; kNoRank once it was swallowed itself
      int32_t previous;
      int32_t next;  // -1 at the end
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;  // rank << 32 | position: the least is the next merge
  };

  // Appends the ids of `piece` (well-formed UTF-8). O(n log n).
  void Encode(std::string_view piece, Scratch* scratch, std::vector<TokenId>* ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

  // True where a piece may be cut into words (words.h) without changing its ids: no token of the
  // vocabulary spans two words, and no character vanishes from between them. SentencePiece-style
  // vocabularies are trained so, and need the cut because they take a whole text for one piece.
  bool words_are_independent() const { return words_are_independent_; }

 private:
  void SplitIntoCharacters(std::string_view piece, std::vector<Scratch::Symbol>* symbols) const;
  bool AppendBytes(std::string_view character, std::vector<Scratch::Symbol>* symbols) const;
  void MergeAll(Scratch* scratch) const;
  void RankWithNext(int32_t at, Scratch* scratch) const;

  Vocabulary vocabulary_;
  MergeTable merges_;
  BpeOptions options_;
  std::unordered_map<char32_t, TokenId> characters_;  // tokens of one character
  std::vector<TokenId> bytes_;                        // of <0x00>..<0xFF>; -1 where missing
  bool words_are_independent_;
};

// Applies a Bpe to many pieces of one text; words repeat, so each is merged only once.
class CachedBpe {
 public:
  CachedBpe(const Bpe& bpe, std::vector<TokenId>* ids) : bpe_(bpe), ids_(ids), cache_(ids) {}
  // Appends the ids of `piece`, whose characters must outlive this object.
  void Encode(std::string_view piece);

 private:
  const Bpe& bpe_;
  std::vector<TokenId>* ids_;
  Bpe::Scratch scratch_;
  WordCache cache_;
};

}  // namespace palu
