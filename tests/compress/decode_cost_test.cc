#include "compress/decode_cost.h"

#include "testing.h"

namespace palu {
namespace {

// Rebuilding a key is a product with all of U; a value is a number times a number per query head.
TEST(DecodeCost, KeysCostByTheirRowsAndValuesByTheirQueries) {
  EXPECT_DOUBLE_EQ(KeyCost(512).latent, 2 * KeyCost(256).latent);
  EXPECT_DOUBLE_EQ(ValueCost(8).latent, 2 * ValueCost(4).latent);
  EXPECT_EQ(KeyCost(512).tier, KeyCost(256).tier);
  EXPECT_GT(KeyCost(256).latent, ValueCost(4).latent);
}

TEST(DecodeCost, AddsUpWhereBothReadOneLatent) {
  const DecodeCost both = KeyCost(256) + ValueCost(4);
  EXPECT_EQ(both.latent, KeyCost(256).latent + ValueCost(4).latent);
  EXPECT_EQ(both.tier, KeyCost(256).tier + ValueCost(4).tier);
}

}  // namespace
}  // namespace palu
