// The KV cache: a layout, a pool, and sequences that own blocks of it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "runtime/block_pool.h"
#include "runtime/cache_layout.h"

namespace palu {

class KvCache;

// One sequence's share of the cache. Gives its blocks back when destroyed. Move only.
class CachedSequence {
 public:
  CachedSequence() = default;
  ~CachedSequence() { Release(); }
  CachedSequence(CachedSequence&& other) noexcept;
  CachedSequence& operator=(CachedSequence&& other) noexcept;

  // Tokens whose keys and values are stored.
  int64_t length() const { return length_; }
  // Position of the first token (RoPE counts from here).
  int64_t first_position() const { return first_position_; }
  BlockTable table() const { return {blocks_.data()}; }
  // The window of recent tokens, on the blocks' device; null where the layout has none or nothing
  // was reserved yet.
  std::byte* window() const { return window_; }
  // Row of a token of the window in a page of latents, [width]; the window is a ring, and null
  // where the layout has none.
  Half* RecentRow(const CachedPages::Page& page, int64_t token) const;
  // The first token whose latents the window holds.
  int64_t recent_begin() const;
  int64_t bytes() const;
  Device device() const;  // where the blocks are
  // Blocks reserved beyond what the stored tokens need.
  int64_t spare_blocks() const { return static_cast<int64_t>(blocks_.size()) - BlocksFor(length_); }

  // Makes room for `tokens` more; on Error nothing has changed. Where a fork shares the block that
  // is written next, this sequence gets a copy of its own.
  void Reserve(int64_t tokens);
  // Marks `tokens` as stored, after a step has written them.
  void Commit(int64_t tokens);
  // Forgets everything after `length` and frees blocks that are no longer needed. The window is not
  // filled up again: what it lost of the tokens before `length` is met as stored from now on.
  void Truncate(int64_t length);
  void Release();
  // Another sequence with the same tokens, in the same blocks, which the pool counts once. What was
  // reserved before and not committed must be reserved again before either sequence writes.
  CachedSequence Fork() const;

 private:
  friend class KvCache;
  void ReplaceByCopy(std::byte** block);

  KvCache* cache_ = nullptr;
  std::vector<std::byte*> blocks_;
  std::byte* window_ = nullptr;
  int64_t window_begin_ = 0;  // no token before it is in the window
  int64_t length_ = 0;
  int64_t first_position_ = 0;
};

class KvCache {
 public:
  // max_bytes: of the blocks, 0 for no bound; windows come on top. Throws Error as CacheLayout
  // does.
  KvCache(const ModelConfig& config, const CacheFormat& format, int64_t max_bytes = 0,
          Device device = kCpu);
  explicit KvCache(CacheLayout layout, int64_t max_bytes = 0, Device device = kCpu);

  CachedSequence NewSequence(int64_t first_position = 0);
  const CacheLayout& layout() const { return layout_; }
  Device device() const { return device_; }
  BlockPool& pool() { return pool_; }
  const BlockPool& pool() const { return pool_; }
  // Blocks and windows of all sequences.
  int64_t bytes_in_use() const;

 private:
  friend class CachedSequence;

  CacheLayout layout_;
  Device device_;
  BlockPool pool_;
  std::optional<BlockPool> windows_;  // one per sequence, where the layout has some
};

}  // namespace palu
