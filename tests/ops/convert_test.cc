#include "ops/convert.h"

#include <bit>
#include <cmath>

#include "ops_testing.h"

namespace palu::testing {
namespace {

template <class T>
void ExpectAllPatternsWiden() {
  std::vector<T> in(65536);
  for (uint32_t i = 0; i < 65536; ++i) in[i].bits = static_cast<uint16_t>(i);
  std::vector<float> out(in.size());
  ToFloat(in.data(), DTypeOf<T>(), 65536, out.data());
  for (uint32_t i = 0; i < 65536; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(ToFloat(in[i]))) << i;
  }
}

template <class T, class Scalar>
void ExpectNarrows(const std::vector<float>& in, const Scalar& scalar) {
  const int64_t n = static_cast<int64_t>(in.size());
  std::vector<T> out(in.size());
  FromFloat(in.data(), n, DTypeOf<T>(), out.data());
  for (size_t i = 0; i < in.size(); ++i) {
    ASSERT_EQ(out[i].bits, scalar(in[i]).bits) << std::hexfloat << in[i];
  }
}

TEST(Convert, WideningIsExactOnAllPatterns) {
  ForEachTarget([] {
    ExpectAllPatternsWiden<Half>();
    ExpectAllPatternsWiden<BFloat16>();
  });
}

// Every exponent with random mantissas, and both neighbours and the middle of every half.
TEST(Convert, NarrowingRoundsLikeTheScalarCode) {
  std::vector<float> in;
  std::mt19937 rng(1);
  for (int i = 0; i < 400000; ++i) in.push_back(std::bit_cast<float>(static_cast<uint32_t>(rng())));
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = ToFloat(Half{static_cast<uint16_t>(bits)});
    const float next = ToFloat(Half{static_cast<uint16_t>(bits + 1)});
    for (float v : {value, (value + next) / 2}) {
      for (float w : {v, std::nextafter(v, -INFINITY), std::nextafter(v, INFINITY)})
        in.push_back(w);
    }
    const uint32_t middle = bits << 16 | 0x8000u;  // of two bfloat16 neighbours
    for (uint32_t b : {middle - 1, middle, middle + 1}) in.push_back(std::bit_cast<float>(b));
  }
  ForEachTarget([&] {
    ExpectNarrows<Half>(in, ToHalf);
    ExpectNarrows<BFloat16>(in, ToBFloat16);
  });
}

TEST(Convert, RaggedSizesTouchNothingElse) {
  ForEachTarget([] {
    for (DType dtype : kStored) {
      for (int64_t n : kSizes) {
        const RandomTensor tensor(dtype, {n}, 7);
        std::vector<float> out(static_cast<size_t>(n) + 1, 42.0f);
        ToFloat(tensor.view, out.data());
        EXPECT_EQ(out[static_cast<size_t>(n)], 42.0f);
        std::vector<std::byte> back(tensor.bytes.size() + 1, std::byte{0x5A});
        FromFloat(out.data(), n, dtype, back.data());
        EXPECT_EQ(std::memcmp(back.data(), tensor.bytes.data(), tensor.bytes.size()), 0);
        EXPECT_EQ(back.back(), std::byte{0x5A});
      }
    }
  });
}

}  // namespace
}  // namespace palu::testing
