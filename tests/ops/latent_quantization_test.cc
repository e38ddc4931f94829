#include "ops/latent_quantization.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "ops/reference/latent_quantization.h"
#include "testing.h"

namespace palu {
namespace {

using testing::ErrorOf;

// A page of one token.
struct Row {
  Row(const LatentQuantization& q, int64_t width)
      : codes(static_cast<size_t>(q.code_bytes(width)), 0xFF),
        scales(static_cast<size_t>(q.runs(width))),
        zeros(scales.size()),
        packed{codes.data(), scales.data(), q.symmetric ? nullptr : zeros.data(), width} {}
  std::vector<uint8_t> codes;
  std::vector<Half> scales;
  std::vector<uint8_t> zeros;
  PackedRows packed;
};

std::vector<LatentQuantization> AllKinds() {
  std::vector<LatentQuantization> kinds;
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t group : {0, 8, 32, 64}) {
      for (const bool symmetric : {false, true}) {
        for (const double clip : {1.0, 0.9}) kinds.push_back({bits, group, symmetric, clip});
      }
    }
  }
  return kinds;
}

// Bit for bit the formula, whatever the numbers.
void ExpectAsReference(const LatentQuantization& q, const std::vector<float>& h) {
  const int64_t width = std::ssize(h);
  Row row(q, width);
  ASSERT_TRUE(QuantizeRow(q, h.data(), row.packed));
  const reference::Quantized expected = reference::Quantize(q, h);
  std::vector<uint8_t> codes(h.size());
  std::vector<float> values(h.size());
  UnpackCodes(q, row.packed, 1, codes.data());
  DequantizeRows(q, row.packed, 1, values.data());
  for (int64_t i = 0; i < width; ++i) {
    const auto at = static_cast<size_t>(i);
    ASSERT_EQ(codes[at], expected.codes[at]) << i << " of " << width << ", " << q.bits << " bits";
    ASSERT_EQ(values[at], expected.Value(q, i));
  }
  for (int64_t r = 0; r < q.runs(width); ++r) {
    const ScaleZero found = ScaleOf(q, row.packed, 0, r);
    EXPECT_EQ(found.scale, expected.scales[static_cast<size_t>(r)]);
    EXPECT_EQ(found.zero, expected.zeros[static_cast<size_t>(r)]);
  }
}

TEST(LatentQuantization, EqualsTheFormulaBitForBit) {
  Rng rng(1);
  for (const LatentQuantization& q : AllKinds()) {
    for (const int64_t width : {8, 16, 40, 96, 128, 224}) {
      std::vector<float> h(static_cast<size_t>(width));
      for (const float magnitude : {1.0f, 1e-3f, 1e4f}) {
        rng.FillUniform(h, -magnitude, magnitude);
        ExpectAsReference(q, h);
        rng.FillUniform(h, 0.5f * magnitude, magnitude);  // no zero in the range
        ExpectAsReference(q, h);
      }
    }
  }
}

TEST(LatentQuantization, ConstantTinyAndHugeRows) {
  for (const LatentQuantization& q : AllKinds()) {
    for (const float value : {0.0f, 1.0f, -1.0f, 1e-30f, 1e-42f, -3e38f, 3e38f, 1e5f}) {
      std::vector<float> h(48, value);
      ExpectAsReference(q, h);
      h[5] = -value;
      h[40] = value / 3;
      ExpectAsReference(q, h);
    }
  }
}

// Rounding moves a value inside the range by at most half a step. The range may shrink: the scale
// is rounded to 11 bits, so the far end lies up to (2^b - 1) 2^-11 steps beyond the last code, and
// rounding the zero costs half a step at either end.
TEST(LatentQuantization, ErrorIsBelowAStep) {
  Rng rng(2);
  std::vector<float> h(256);
  rng.FillUniform(h, -3, 5);
  for (const int bits : {2, 3, 4, 8}) {
    const LatentQuantization q{.bits = bits};
    Row row(q, 256);
    ASSERT_TRUE(QuantizeRow(q, h.data(), row.packed));
    std::vector<float> values(h.size());
    DequantizeRows(q, row.packed, 1, values.data());
    const double step = ToFloat(row.scales[0]);
    for (size_t i = 0; i < h.size(); ++i) {
      EXPECT_LE(std::abs(h[i] - values[i]), step * (1 + q.max_code() * 0x1p-11)) << bits;
    }
  }
}

TEST(LatentQuantization, RefusesWhatIsNotFinite) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    for (const size_t at : {size_t{0}, size_t{17}, size_t{39}}) {
      std::vector<float> h(40, 1.0f);
      h[at] = bad;
      const LatentQuantization q{.bits = 4};
      Row row(q, 40);
      EXPECT_FALSE(QuantizeRow(q, h.data(), row.packed)) << bad << " at " << at;
    }
  }
}

// Latent j shares its byte with j + width / 2; with 3 bits the high bits lie in a plane of theirs.
TEST(LatentQuantization, WhereCodesLie) {
  std::vector<float> h(16);
  for (size_t i = 0; i < 16; ++i) h[i] = static_cast<float>(i);
  const LatentQuantization four{.bits = 4};
  Row row(four, 16);
  ASSERT_TRUE(QuantizeRow(four, h.data(), row.packed));
  for (size_t j = 0; j < 8; ++j) EXPECT_EQ(row.codes[j], j | (j + 8) << 4);

  for (size_t i = 0; i < 16; ++i) h[i] = static_cast<float>(i % 8);
  const LatentQuantization three{.bits = 3};
  Row planes(three, 16);
  ASSERT_TRUE(QuantizeRow(three, h.data(), planes.packed));
  EXPECT_EQ(planes.codes.size(), 6u);
  for (size_t j = 0; j < 4; ++j) EXPECT_EQ(planes.codes[j], j | j << 2 | j << 4 | j << 6);
  // Latents j + 2 k for k = 0..7 have the high bit where (j + 2 k) % 8 >= 4.
  for (size_t j = 0; j < 2; ++j) EXPECT_EQ(planes.codes[4 + j], 0b11001100);
}

// A mid-rise page of one token.
struct MidRiseRow {
  MidRiseRow(int bits, int64_t width)
      : quantization(LatentTier{width, bits}.quantization()),
        codes(static_cast<size_t>(quantization.code_bytes(width))),
        packed{.codes = codes.data(), .width = width, .scale_codes = &scale} {}
  bool Quantize(const std::vector<float>& h) { return QuantizeRow(quantization, h.data(), packed); }
  std::vector<float> Values() const {
    std::vector<float> values(static_cast<size_t>(packed.width));
    DequantizeRows(quantization, packed, 1, values.data());
    return values;
  }
  LatentQuantization quantization;
  std::vector<uint8_t> codes;
  uint8_t scale = 0;
  PackedRows packed;
};

double SquaredError(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return sum;
}

TEST(LatentQuantization, MidRiseScalesAreTwelfthsOfAnOctave) {
  for (int code = 0; code < 256; ++code) {
    const float scale = MidRiseScale(static_cast<uint8_t>(code));
    EXPECT_EQ(scale, static_cast<float>(std::exp2((code - 160) / 12.0))) << code;
    EXPECT_EQ(NearestScaleCode(scale), code);
    const double border = std::exp2((code + 0.5 - 160) / 12.0);  // with the next one
    EXPECT_EQ(NearestScaleCode(static_cast<float>(border * (1 - 0x1p-22))), code);
    EXPECT_EQ(NearestScaleCode(static_cast<float>(border * (1 + 0x1p-22))), code + 1);
  }
}

// Every value goes to the nearest level: at most half a step away inside the levels' range, and at
// the outermost level beyond it.
TEST(LatentQuantization, MidRiseTakesTheNearestLevel) {
  Rng rng(3);
  for (const int bits : {2, 3, 4, 8}) {
    std::vector<float> h(96);
    rng.FillUniform(h, -2, 2);
    h[7] = 9;
    MidRiseRow row(bits, 96);
    ASSERT_TRUE(row.Quantize(h));
    const std::vector<float> values = row.Values();
    const float step = MidRiseScale(row.scale);
    const float outermost = step * static_cast<float>((1 << bits) - 1) / 2;
    for (size_t i = 0; i < h.size(); ++i) {
      const float nearest = std::clamp(h[i], -outermost, outermost);
      // The product with the inverse step rounds three times; levels are exact multiples of step/2.
      EXPECT_LE(std::abs(values[i] - nearest), step / 2 * (1 + (1 << bits) * 0x1p-21f)) << bits;
    }
  }
}

// The scale is the best of those tried around the normal distribution's, so no worse than that one.
TEST(LatentQuantization, MidRiseErrorIsBelowTheNormalDistributions) {
  Rng rng(4);
  // Mean squared errors of the best uniform quantisers of a normal variable (Max, 1960), which a
  // flatter distribution such as the uniform one stays below, whatever the row.
  for (const auto& [bits, error] : {std::pair{2, 0.1188}, {3, 0.03744}, {4, 0.01154}}) {
    std::vector<float> h(256);
    rng.FillUniform(h, -1, 1);
    double energy = 0;
    for (const float x : h) energy += double{x} * x;
    MidRiseRow row(bits, 256);
    ASSERT_TRUE(row.Quantize(h));
    EXPECT_LT(SquaredError(h, row.Values()), error * energy) << bits;
  }
}

TEST(LatentQuantization, MidRiseRowsOfEveryMagnitude) {
  for (const float magnitude : {0.0f, 1e-3f, 1.0f, 100.0f}) {
    std::vector<float> h(16, magnitude);
    h[3] = -magnitude;
    MidRiseRow row(4, 16);
    ASSERT_TRUE(row.Quantize(h));
    // 16 equal magnitudes can lie half a step, of at most 2^(4/12) 0.3352 of them, from a level;
    // the least scale, 2^(-160/12), bounds a row of zeros.
    const float bound = std::max(0.5f * 1.26f * 0.3352f * magnitude, MidRiseScale(0));
    for (size_t i = 0; i < 16; ++i) EXPECT_LE(std::abs(row.Values()[i] - h[i]), bound) << magnitude;
  }
  std::vector<float> h(16, 1.0f);
  h[9] = std::numeric_limits<float>::quiet_NaN();
  MidRiseRow row(4, 16);
  EXPECT_FALSE(row.Quantize(h));
}

TEST(LatentQuantization, BytesPerToken) {
  EXPECT_EQ((LatentTier{96, 3}.quantization().bytes(96)), 36 + 1);
  EXPECT_EQ((LatentQuantization{.bits = 4}.bytes(128)), 64 + 3);
  EXPECT_EQ((LatentQuantization{.bits = 3, .group = 32}.bytes(128)), 48 + 4 * 3);
  EXPECT_EQ((LatentQuantization{.bits = 2, .symmetric = true}.bytes(96)), 24 + 2);
  EXPECT_EQ((LatentQuantization{.bits = 8, .group = 64}.bytes(96)), 96 + 2 * 3);
}

TEST(LatentQuantization, OptionsOutOfRange) {
  EXPECT_EQ(ErrorOf([] { CheckQuantization({.bits = 5}); }),
            "bits: expected 2, 3, 4, 8 or 16, found 5");
  EXPECT_NE(ErrorOf([] { CheckQuantization({.group = 12}); }).find("multiple of 8"),
            std::string::npos);
  EXPECT_NE(ErrorOf([] { CheckQuantization({.clip_ratio = 0}); }).find("found 0"),
            std::string::npos);
}

}  // namespace
}  // namespace palu
