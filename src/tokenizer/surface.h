// What each id looks like as text, and the rules by which the texts of successive ids join.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace palu {

using TokenId = int32_t;

struct Surface {
  enum class Kind : uint8_t {
    kNone,   // the id is unused
    kText,   // well-formed UTF-8
    kBytes,  // any bytes, which neighbouring tokens of this kind may complete to UTF-8
  };
  std::string_view bytes;
  Kind kind;
  bool special;
};

struct JoinRules {
  // What a run of kBytes tokens that is not UTF-8 becomes: U+FFFD for each error (byte-level
  // decoders), for each byte in error (SentencePiece), or for each byte of the run, the good ones
  // too (the ByteFallback decoder).
  enum class Malformed : uint8_t { kEachError, kEachByte, kWholeRun };
  Malformed malformed = Malformed::kEachError;
  size_t strip_spaces = 0;        // so many spaces vanish from the front of the text, if present
  bool first_token_bare = false;  // all spaces vanish from the first token (Metaspace decoder)
};

class SurfaceTable {
 public:
  // Ids 0..size-1, all unused.
  explicit SurfaceTable(size_t size = 0) : entries_(size) {}

  void Set(TokenId id, std::string_view bytes, Surface::Kind kind, bool special);

  // Throws Error unless 0 <= id < size().
  Surface At(TokenId id) const;
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

  JoinRules rules;

 private:
  struct Entry {
    size_t begin = 0;
    uint32_t length = 0;
    Surface::Kind kind = Surface::Kind::kNone;
    bool special = false;
  };
  std::string arena_;
  std::vector<Entry> entries_;
};

}  // namespace palu
