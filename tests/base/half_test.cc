#include "base/half.h"

#include <cmath>
#include <limits>

#include "testing.h"

namespace palu {
namespace {

TEST(Half, EveryPatternSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Half h{static_cast<uint16_t>(bits)};
    const float f = ToFloat(h);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToHalf(f))));
    } else {
      EXPECT_EQ(ToHalf(f).bits, h.bits);
    }
    const BFloat16 b{static_cast<uint16_t>(bits)};
    const float g = ToFloat(b);
    if (!std::isnan(g)) {
      EXPECT_EQ(ToBFloat16(g).bits, b.bits);
    }
  }
}

// Between two neighbours a tie goes to the even pattern, anything else to the nearer one.
TEST(Half, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = ToFloat(Half{static_cast<uint16_t>(bits)});
    const float high = ToFloat(Half{static_cast<uint16_t>(bits + 1)});
    const float middle = 0.5f * (low + high);  // exact in float
    EXPECT_EQ(ToHalf(middle).bits, bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(ToHalf(std::nextafter(middle, low)).bits, bits);
    EXPECT_EQ(ToHalf(std::nextafter(middle, high)).bits, bits + 1);
  }
}

TEST(Half, Extremes) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(ToHalf(65504.0f).bits, 0x7BFF);
  EXPECT_EQ(ToHalf(65520.0f).bits, 0x7C00);  // half way to the next: infinity
  EXPECT_EQ(ToHalf(-inf).bits, 0xFC00);
  EXPECT_EQ(ToHalf(1e-30f).bits, 0);
  EXPECT_EQ(ToHalf(-0.0f).bits, 0x8000);
  EXPECT_EQ(ToBFloat16(inf).bits, 0x7F80);
  EXPECT_EQ(ToBFloat16(std::numeric_limits<float>::max()).bits, 0x7F80);
  EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(std::nanf("")))));
}

}  // namespace
}  // namespace palu
