#include "runtime/kv_cache.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "base/error.h"

namespace palu {

CachedSequence::CachedSequence(CachedSequence&& other) noexcept { *this = std::move(other); }

CachedSequence& CachedSequence::operator=(CachedSequence&& other) noexcept {
  std::swap(cache_, other.cache_);
  std::swap(blocks_, other.blocks_);
  std::swap(window_, other.window_);
  std::swap(window_begin_, other.window_begin_);
  std::swap(length_, other.length_);
  std::swap(first_position_, other.first_position_);
  return *this;
}

int64_t CachedSequence::bytes() const {
  if (!cache_) return 0;
  return static_cast<int64_t>(blocks_.size()) * cache_->layout().block_bytes() +
         (window_ ? cache_->layout().window_bytes() : 0);
}

Half* CachedSequence::RecentRow(const CachedPages::Page& page, int64_t token) const {
  if (!window_) return nullptr;
  return reinterpret_cast<Half*>(window_ + page.window_offset) +
         token % cache_->layout().recent() * page.width;
}

int64_t CachedSequence::recent_begin() const {
  return std::max(window_begin_, length_ - (cache_ ? cache_->layout().recent() : 0));
}

Device CachedSequence::device() const { return cache_ ? cache_->device() : kCpu; }

void CachedSequence::Reserve(int64_t tokens) {
  assert(cache_ != nullptr);
  const size_t before = blocks_.size();
  const auto needed = static_cast<size_t>(BlocksFor(length_ + tokens));
  const auto next = static_cast<size_t>(length_ / kBlockTokens);  // the block that is written next
  try {
    while (blocks_.size() < needed) {
      blocks_.reserve(blocks_.size() + 1);
      blocks_.push_back(cache_->pool().Allocate());
    }
    if (tokens > 0 && next < before && cache_->pool().shared(blocks_[next])) {
      ReplaceByCopy(&blocks_[next]);
    }
    if (cache_->windows_ && !window_) window_ = cache_->windows_->Allocate();
  } catch (...) {
    for (; blocks_.size() > before; blocks_.pop_back()) cache_->pool().Free(blocks_.back());
    throw;
  }
}

void CachedSequence::ReplaceByCopy(std::byte** block) {
  BlockPool& pool = cache_->pool();
  std::byte* copy = pool.Allocate();
  pool.Copy(copy, *block);
  pool.Free(*block);
  *block = copy;
}

void CachedSequence::Commit(int64_t tokens) {
  assert(BlocksFor(length_ + tokens) <= static_cast<int64_t>(blocks_.size()));
  length_ += tokens;
}

void CachedSequence::Truncate(int64_t length) {
  assert(length >= 0 && length <= length_);
  window_begin_ = std::min(length, recent_begin());
  length_ = length;
  const auto keep = static_cast<size_t>(BlocksFor(length));
  for (; blocks_.size() > keep; blocks_.pop_back()) cache_->pool().Free(blocks_.back());
}

void CachedSequence::Release() {
  if (!cache_) return;
  Truncate(0);
  if (window_) cache_->windows_->Free(std::exchange(window_, nullptr));
}

CachedSequence CachedSequence::Fork() const {
  assert(cache_ != nullptr);
  CachedSequence fork = cache_->NewSequence(first_position_);
  const auto stored = static_cast<size_t>(BlocksFor(length_));
  fork.blocks_.reserve(stored);
  for (size_t b = 0; b < stored; ++b) {
    cache_->pool().Share(blocks_[b]);
    fork.blocks_.push_back(blocks_[b]);
  }
  fork.length_ = length_;
  fork.window_begin_ = window_begin_;
  if (window_) {
    fork.window_ = cache_->windows_->Allocate();
    cache_->windows_->Copy(fork.window_, window_);
  }
  return fork;
}

KvCache::KvCache(const ModelConfig& config, const CacheFormat& format, int64_t max_bytes,
                 Device device)
    : KvCache(CacheLayout(config, format), max_bytes, device) {}

KvCache::KvCache(CacheLayout layout, int64_t max_bytes, Device device)
    : layout_(std::move(layout)), device_(device), pool_(layout_.block_bytes(), max_bytes, device) {
  if (layout_.window_bytes() > 0) {
    windows_.emplace(layout_.window_bytes(), 0, device);
  }
}

int64_t KvCache::bytes_in_use() const {
  return pool_.bytes_in_use() + (windows_ ? windows_->bytes_in_use() : 0);
}

CachedSequence KvCache::NewSequence(int64_t first_position) {
  CachedSequence sequence;
  sequence.cache_ = this;
  sequence.first_position_ = first_position;
  return sequence;
}

}  // namespace palu
