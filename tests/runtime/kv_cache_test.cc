#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "model/hf_config.h"
#include "testing.h"

namespace palu {
namespace {

ModelConfig Wiki() { return LoadConfig(testing::Repo("models/wiki-7m-mha")); }

TEST(BlockPool, BlocksAreDistinctAndReused) {
  BlockPool pool(4096);
  std::set<std::byte*> blocks;
  for (int i = 0; i < 5000; ++i) {
    std::byte* block = pool.Allocate();
    std::memset(block, i, 4096);
    EXPECT_TRUE(blocks.insert(block).second);
  }
  EXPECT_EQ(pool.bytes_in_use(), 5000 * 4096);
  const int64_t mapped = pool.bytes_mapped();
  for (std::byte* block : blocks) pool.Free(block);
  EXPECT_EQ(pool.bytes_in_use(), 0);
  for (int i = 0; i < 5000; ++i) EXPECT_TRUE(blocks.contains(pool.Allocate()));
  EXPECT_EQ(pool.bytes_mapped(), mapped);
}

TEST(BlockPool, SaysWhatWasNeededWhenFull) {
  BlockPool pool(1000, 2500);
  EXPECT_EQ(pool.blocks_available(), 2);
  std::byte* first = pool.Allocate();
  pool.Allocate();
  EXPECT_EQ(testing::ErrorOf([&] { pool.Allocate(); }),
            "the KV cache is full: 2 blocks of 1000 bytes are in use and the limit is 2500 bytes");
  pool.Free(first);
  EXPECT_EQ(pool.Allocate(), first);
}

TEST(BlockPool, TrimKeepsBlocksUsable) {
  BlockPool pool(1 << 16);
  std::byte* kept = pool.Allocate();
  std::byte* freed = pool.Allocate();
  std::memset(kept, 7, 1 << 16);
  std::memset(freed, 7, 1 << 16);
  pool.Free(freed);
  pool.Trim();
  EXPECT_EQ(static_cast<int>(kept[12345]), 7);
  std::byte* again = pool.Allocate();
  EXPECT_EQ(again, freed);
  EXPECT_EQ(static_cast<int>(again[8192]), 0);  // the system gave fresh pages
}

TEST(BlockPool, SharedBlocksAreFreeWhenTheLastOwnerLeaves) {
  BlockPool pool(4096);
  std::byte* block = pool.Allocate();
  EXPECT_FALSE(pool.shared(block));
  pool.Share(block);
  pool.Share(block);
  EXPECT_EQ(pool.blocks_in_use(), 1);
  pool.Free(block);
  EXPECT_TRUE(pool.shared(block));
  pool.Free(block);
  EXPECT_FALSE(pool.shared(block));
  EXPECT_EQ(pool.blocks_in_use(), 1);
  pool.Free(block);
  EXPECT_EQ(pool.blocks_in_use(), 0);
}

TEST(KvCache, SequencesTakeWholeBlocks) {
  KvCache cache(Wiki(), DType::kF16);
  const int64_t block = cache.layout().block_bytes();
  EXPECT_EQ(block, 64 * 6144);
  CachedSequence a = cache.NewSequence();
  a.Reserve(1);
  a.Commit(1);
  EXPECT_EQ(cache.pool().bytes_in_use(), block);
  a.Reserve(63);
  a.Commit(63);
  EXPECT_EQ(cache.pool().bytes_in_use(), block);
  a.Reserve(1);
  a.Commit(1);
  EXPECT_EQ(a.bytes(), 2 * block);
  {
    CachedSequence b = cache.NewSequence(100);
    b.Reserve(200);
    EXPECT_EQ(b.spare_blocks(), 4);
    EXPECT_EQ(b.first_position(), 100);
    EXPECT_EQ(cache.pool().blocks_in_use(), 6);
  }
  EXPECT_EQ(cache.pool().blocks_in_use(), 2);
  a.Truncate(10);
  EXPECT_EQ(a.length(), 10);
  EXPECT_EQ(cache.pool().blocks_in_use(), 1);
  CachedSequence moved = std::move(a);
  EXPECT_EQ(moved.length(), 10);
  EXPECT_EQ(a.length(), 0);
}

TEST(KvCache, AFailedReservationChangesNothing) {
  const int64_t block = 64 * 6144;
  KvCache cache(Wiki(), DType::kF16, 3 * block);
  CachedSequence a = cache.NewSequence();
  a.Reserve(64);
  a.Commit(64);
  EXPECT_THROW(a.Reserve(64 * 3), Error);
  EXPECT_EQ(a.length(), 64);
  EXPECT_EQ(cache.pool().blocks_in_use(), 1);
  a.Reserve(128);
  EXPECT_EQ(cache.pool().blocks_available(), 0);
}

// A sequence of `tokens` tokens whose block b is filled with bytes of value b + 1.
CachedSequence Filled(KvCache& cache, int64_t tokens) {
  CachedSequence sequence = cache.NewSequence(5);
  sequence.Reserve(tokens);
  sequence.Commit(tokens);
  for (int64_t b = 0; b < BlocksFor(tokens); ++b) {
    std::memset(sequence.table().blocks[b], static_cast<int>(b) + 1,
                static_cast<size_t>(cache.layout().block_bytes()));
  }
  return sequence;
}

void ExpectFilled(const KvCache& cache, const CachedSequence& sequence, int64_t block, int value) {
  const std::byte* begin = sequence.table().blocks[block];
  EXPECT_TRUE(std::all_of(begin, begin + cache.layout().block_bytes(),
                          [&](std::byte b) { return b == static_cast<std::byte>(value); }));
}

TEST(KvCacheFork, SharesBlocksUntilOneIsWritten) {
  KvCache cache(Wiki(), DType::kF16);
  CachedSequence parent = Filled(cache, 64 + 10);
  CachedSequence a = parent.Fork(), b = parent.Fork();
  EXPECT_EQ(cache.pool().blocks_in_use(), 2);
  EXPECT_EQ(a.length(), 74);
  EXPECT_EQ(a.first_position(), 5);
  a.Reserve(0);
  EXPECT_EQ(cache.pool().blocks_in_use(), 2);
  a.Reserve(1);
  EXPECT_EQ(cache.pool().blocks_in_use(), 3);
  EXPECT_EQ(a.table().blocks[0], parent.table().blocks[0]);
  EXPECT_NE(a.table().blocks[1], parent.table().blocks[1]);
  EXPECT_EQ(b.table().blocks[1], parent.table().blocks[1]);
  ExpectFilled(cache, a, 1, 2);
  a.Reserve(1);  // it is a's own now
  EXPECT_EQ(cache.pool().blocks_in_use(), 3);
  parent.Release();
  b.Reserve(60);  // the last owner copies nothing; a block more for tokens 128 to 133
  EXPECT_EQ(cache.pool().blocks_in_use(), 4);
  a.Release();
  b.Release();
  EXPECT_EQ(cache.pool().blocks_in_use(), 0);
}

TEST(KvCacheFork, FullBlocksAreNeverCopied) {
  KvCache cache(Wiki(), DType::kF16);
  CachedSequence parent = Filled(cache, 128);
  CachedSequence fork = parent.Fork();
  fork.Reserve(64);
  parent.Reserve(64);
  EXPECT_EQ(cache.pool().blocks_in_use(), 4);
  EXPECT_EQ(fork.table().blocks[1], parent.table().blocks[1]);
  EXPECT_NE(fork.table().blocks[2], parent.table().blocks[2]);
}

TEST(KvCacheFork, ReservedRoomIsNotShared) {
  KvCache cache(Wiki(), DType::kF16);
  CachedSequence parent = Filled(cache, 64);
  parent.Reserve(64);
  CachedSequence fork = parent.Fork();
  EXPECT_EQ(fork.spare_blocks(), 0);
  EXPECT_EQ(fork.bytes(), cache.layout().block_bytes());
}

TEST(KvCacheFork, TruncatingIntoSharedBlocksIsSafe) {
  KvCache cache(Wiki(), DType::kF16);
  CachedSequence parent = Filled(cache, 130);
  CachedSequence fork = parent.Fork();
  parent.Truncate(70);
  EXPECT_EQ(cache.pool().blocks_in_use(), 3);
  parent.Reserve(10);
  EXPECT_NE(fork.table().blocks[1], parent.table().blocks[1]);
  std::memset(parent.table().blocks[1], 9, static_cast<size_t>(cache.layout().block_bytes()));
  ExpectFilled(cache, fork, 1, 2);
  ExpectFilled(cache, fork, 2, 3);
}

// One layer whose keys and values share 16 latents; the last 4 tokens' are kept as they were.
ModelConfig WithWindow() {
  ModelConfig config = Wiki();
  config.num_layers = 1;
  KvCompression& kv = config.compression.emplace();
  kv.tiered = true;
  kv.recent = 4;
  kv.layers.resize(1);
  kv.layers[0].k = {{16}, {{{16, 4}}}};
  kv.layers[0].v = kv.layers[0].k;
  kv.layers[0].shared = true;
  return config;
}

TEST(KvCacheWindow, IsARingOfItsOwnForEverySequence) {
  KvCache cache(WithWindow(), DType::kF16);
  const CachedPages::Page& page = cache.layout().layer(0).k.pages[0];
  CachedSequence parent = cache.NewSequence();
  EXPECT_EQ(parent.RecentRow(page, 0), nullptr);
  parent.Reserve(10);
  EXPECT_EQ(cache.bytes_in_use(), cache.layout().block_bytes() + 4 * 16 * 2);
  EXPECT_EQ(parent.bytes(), cache.bytes_in_use());
  parent.Commit(10);
  EXPECT_EQ(parent.recent_begin(), 6);
  EXPECT_EQ(parent.RecentRow(page, 6), parent.RecentRow(page, 10));
  EXPECT_EQ(parent.RecentRow(page, 7), parent.RecentRow(page, 6) + 16 * (7 % 4 - 6 % 4));
  *parent.RecentRow(page, 9) = ToHalf(3);
  CachedSequence fork = parent.Fork();
  EXPECT_EQ(cache.bytes_in_use(), cache.layout().block_bytes() + 2 * 4 * 16 * 2);
  *parent.RecentRow(page, 9) = ToHalf(5);
  EXPECT_EQ(ToFloat(*fork.RecentRow(page, 9)), 3);
  EXPECT_EQ(fork.recent_begin(), 6);
  parent.Release();
  fork.Release();
  EXPECT_EQ(cache.bytes_in_use(), 0);
}

TEST(KvCacheWindow, TruncationDoesNotBringBackWhatItLost) {
  KvCache cache(WithWindow(), DType::kF16);
  CachedSequence sequence = cache.NewSequence();
  sequence.Reserve(20);
  sequence.Commit(10);
  sequence.Truncate(8);
  EXPECT_EQ(sequence.recent_begin(), 6);  // tokens 4 and 5 were overwritten
  sequence.Truncate(3);
  EXPECT_EQ(sequence.recent_begin(), 3);
  sequence.Reserve(10);
  sequence.Commit(2);
  EXPECT_EQ(sequence.recent_begin(), 3);
  sequence.Commit(8);
  EXPECT_EQ(sequence.recent_begin(), 9);
}

TEST(KvCacheFork, AFailedReservationChangesNothing) {
  KvCache cache(Wiki(), DType::kF16, 2 * int64_t{64} * 6144);
  CachedSequence parent = Filled(cache, 10);
  CachedSequence fork = parent.Fork();
  EXPECT_THROW(fork.Reserve(60), Error);  // one block more fits, its own copy does not
  EXPECT_EQ(cache.pool().blocks_in_use(), 1);
  EXPECT_EQ(fork.spare_blocks(), 0);
  EXPECT_EQ(fork.table().blocks[0], parent.table().blocks[0]);
  fork.Reserve(1);
  ExpectFilled(cache, fork, 0, 1);
}

TEST(KvCacheFork, OfNothing) {
  KvCache cache(Wiki(), DType::kF16);
  CachedSequence fork = cache.NewSequence(3).Fork();
  EXPECT_EQ(fork.length(), 0);
  fork.Reserve(1);
  EXPECT_EQ(cache.pool().blocks_in_use(), 1);
}

}  // namespace
}  // namespace palu
