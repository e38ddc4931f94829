#include "runtime/kv_cache.h"

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

}  // namespace
}  // namespace palu
