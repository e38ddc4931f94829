#include "tokenizer/surface.h"

#include "base/error.h"

namespace palu {

void SurfaceTable::Set(TokenId id, std::string_view bytes, Surface::Kind kind, bool special) {
  entries_.at(id) = {arena_.size(), static_cast<uint32_t>(bytes.size()), kind, special};
  arena_ += bytes;
}

Surface SurfaceTable::At(TokenId id) const {
  Require(id >= 0 && id < size(), "expected a token id from 0 to {}, found {}", size() - 1, id);
  const Entry& entry = entries_[id];
  return {std::string_view(arena_).substr(entry.begin, entry.length), entry.kind, entry.special};
}

}  // namespace palu
