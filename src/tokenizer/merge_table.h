// Which pairs of neighbouring tokens merge, how early, and into what: one flat open-addressing
// table, as BPE looks up a pair for every step it takes.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "tokenizer/surface.h"

namespace palu {

class MergeTable {
 public:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  struct Merge {
    uint32_t rank = kNoRank;  // lower merges first
    TokenId result = -1;
  };

  explicit MergeTable(size_t capacity = 0)
      : slots_(std::bit_ceil(capacity + capacity / 2 + 1)),
        shift_(65 - std::bit_width(slots_.size())) {}

  // A pair given twice keeps the later merge. At most `capacity` pairs.
  void Insert(TokenId left, TokenId right, Merge merge) {
    Slot& slot = slots_[Locate(Key(left, right))];
    slot = {Key(left, right), merge};
  }

  // Rank kNoRank where the pair does not merge.
  Merge Find(TokenId left, TokenId right) const { return slots_[Locate(Key(left, right))].merge; }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;  // no key: ids are not negative

  struct Slot {
    uint64_t key = kEmpty;
    Merge merge;
  };

  static uint64_t Key(TokenId left, TokenId right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  // The slot with `key`, or the empty one where it belongs. Multiplicative hashing: the high bits
  // of the product depend on all bits of the key.
  size_t Locate(uint64_t key) const {
    size_t at = shift_ == 64 ? 0 : key * 0x9E3779B97F4A7C15u >> shift_;
    while (slots_[at].key != kEmpty && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;
  int shift_;
};

}  // namespace palu
