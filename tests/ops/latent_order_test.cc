#include "ops/latent_order.h"

#include "testing.h"

namespace palu::testing {
namespace {

TEST(LatentOrder, SlotsOfARowAreDistinct) {
  for (const int bits : {2, 3, 4, 8, 16}) {
    for (const int width : {64, 128, 256, 384, 512}) {
      if (bits == 3 && width % 128 != 0) continue;
      const int slots = Chunks(bits, width) * ChunkSteps(bits) * StepElements(bits);
      std::vector<bool> taken(static_cast<size_t>(slots), false);
      for (int latent = 0; latent < width; ++latent) {
        const int slot = RowSlot(bits, width, latent);
        ASSERT_GE(slot, 0);
        ASSERT_LT(slot, slots) << bits << " bits, latent " << latent << " of " << width;
        EXPECT_FALSE(taken[static_cast<size_t>(slot)]) << bits << " bits, slot " << slot;
        taken[static_cast<size_t>(slot)] = true;
      }
    }
  }
}

TEST(LatentOrder, OrderIsThatOfSlots) {
  for (const int bits : {2, 3, 4, 8, 16}) {
    const std::vector<int64_t> order = SlotOrder(bits, 256);
    ASSERT_EQ(order.size(), 256u);
    for (size_t i = 1; i < order.size(); ++i) {
      EXPECT_LT(RowSlot(bits, 256, static_cast<int>(order[i - 1])),
                RowSlot(bits, 256, static_cast<int>(order[i])));
    }
  }
}

TEST(LatentOrder, BoundsAreStepsThatHoldTheHeadsBefore) {
  // Two heads of 48 rows need 96 latents, three steps of 32 bytes; four need 192, six steps.
  EXPECT_EQ(RotaryBounds({128, 24, 4}, 4, 256), (std::vector<int64_t>{96, 96, 192, 192}));
  // 80 and 160 rows, steps of 32 bytes or of 16 halves.
  EXPECT_EQ(RotaryBounds({128, 20, 4}, 4, 256), (std::vector<int64_t>{96, 96, 160, 160}));
  EXPECT_EQ(RotaryBounds({128, 20, 16}, 4, 256), (std::vector<int64_t>{80, 80, 160, 160}));
  EXPECT_EQ(RotaryBounds({128, 24, 4}, 4, 128), (std::vector<int64_t>{96, 96, 128, 128}));
  // 64 latents fill their steps by half.
  EXPECT_EQ(RotaryBounds({128, 24, 4}, 1, 64), (std::vector<int64_t>{48}));
  // The last 64 of 192 latents lie in half steps of 16.
  EXPECT_EQ(RotaryBounds({128, 20, 4}, 4, 192), (std::vector<int64_t>{96, 96, 160, 160}));
}

TEST(LatentOrder, LatentsBeyondABoundAreTheLastToBeMet) {
  const std::vector<int64_t> beyond = LatentsBeyond(4, 256, 192);
  ASSERT_EQ(beyond.size(), 64u);
  for (const int64_t latent : beyond) {
    EXPECT_GE(RowSlot(4, 256, static_cast<int>(latent)), 192);
  }
  EXPECT_TRUE(LatentsBeyond(4, 256, 256).empty());
}

}  // namespace
}  // namespace palu::testing
