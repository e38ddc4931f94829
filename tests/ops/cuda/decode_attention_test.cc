// Decode attention on the device against float64 loops, over layouts of the cache and shapes.
#include "ops/cuda/attention.h"

#include <fmt/format.h>

#include "device_attention.h"

namespace palu::testing {
namespace {

AttentionShapes Case(const char* name, int64_t heads, int64_t kv_heads, int64_t head_dim,
                     int64_t group, std::vector<int64_t> k_ranks, std::vector<int64_t> v_ranks) {
  AttentionShapes s{name, heads, kv_heads, head_dim, group, std::move(k_ranks), std::move(v_ranks)};
  s.device = true;
  s.up_scale = 0.25f;  // keys of order one, so that no single token takes all the weight
  return s;
}

AttentionShapes With(AttentionShapes s, LatentQuantization quantization) {
  s.quantization = quantization;
  return s;
}

AttentionShapes At(AttentionShapes s, int64_t first_position, bool bias, bool norm) {
  s.first_position = first_position;
  s.bias = bias;
  s.norm = norm;
  return s;
}

// A rank of a page is the width of some of the tiers, from the first one on.
AttentionShapes In(AttentionShapes s, std::vector<LatentTier> tiers, bool shared = false) {
  s.tiers = std::move(tiers);
  s.shared = shared;
  return s;
}

// Tiers of every number of bits, narrow and wide, one latent for keys and values and two.
std::vector<AttentionShapes> TieredCases() {
  const std::vector<LatentTier> narrow = {{16, 8}, {16, 4}, {16, 3}, {16, 2}};
  const std::vector<LatentTier> mixed = {{16, 8}, {48, 4}, {32, 3}, {64, 2}};
  const AttentionShapes mha = Case("joint heads", 4, 4, 64, 4, {64}, {64});
  const AttentionShapes gqa = Case("gqa 2", 8, 4, 64, 2, {64, 160}, {16, 96});
  const AttentionShapes wide = Case("wide heads", 4, 4, 128, 2, {160, 64}, {160, 64});
  std::vector<AttentionShapes> cases = {
      In(mha, narrow),
      In(mha, narrow, true),
      In(At(gqa, 37, true, false), mixed),
      In(At(wide, 1000000, true, true), mixed, true),
      In(At(wide, 37, true, false), mixed),
      In(Case("one head per page", 4, 4, 64, 1, {16, 96, 160, 64}, {16, 96, 160, 64}), mixed, true),
      In(At(Case("gqa 4", 8, 2, 128, 2, {160}, {160}), 37, true, true), mixed, true),
      In(Case("gqa 8", 32, 4, 64, 4, {160}, {96}), mixed),
      In(Case("gqa 8, wide heads", 16, 2, 128, 1, {64, 96}, {64, 96}), mixed, true),
      In(Case("gqa 3", 6, 2, 64, 2, {64}, {64}), mixed, true),
      In(At(Case("keys plain", 8, 4, 64, 4, {}, {96}), 0, true, false), mixed),
      In(At(Case("values plain", 8, 4, 64, 2, {64, 16}, {}), 1000000, true, true), mixed),
      In(Case("as wide as keys and values", 4, 4, 64, 4, {512}, {512}),
         {{64, 4}, {192, 3}, {256, 2}}, true),
  };
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t width : {16, 48, 160}) {
      for (const bool shared : {false, true}) {
        cases.push_back(
            In(Case("one tier", 4, 4, 64, 4, {width}, {width}), {{width, bits}}, shared));
      }
    }
  }
  AttentionShapes s = In(Case("other pages for values", 8, 4, 64, 4, {160}, {64, 16}), mixed);
  s.v_group = 2;
  cases.push_back(s);
  return cases;
}

AttentionShapes Windowed(AttentionShapes s, int64_t recent) {
  s.recent = recent;
  return s;
}

// The same with windows, shorter than a tile, over several tiles, and longer than some sequences;
// without plain projections, which have none.
std::vector<AttentionShapes> WindowedCases() {
  std::vector<AttentionShapes> cases;
  constexpr int64_t kRecent[] = {16, 5, 200};
  for (const AttentionShapes& s : TieredCases()) {
    if (s.k_ranks.empty() || s.v_ranks.empty()) continue;
    cases.push_back(Windowed(s, kRecent[cases.size() % std::size(kRecent)]));
  }
  return cases;
}

std::vector<AttentionShapes> Cases() {
  const AttentionShapes mha = Case("joint heads", 4, 4, 64, 4, {96}, {64});
  const AttentionShapes gqa = Case("gqa 2", 8, 4, 64, 2, {32, 64}, {96, 32});
  std::vector<AttentionShapes> cases = {
      mha,
      At(gqa, 37, true, false),
      At(Case("wide heads", 4, 4, 128, 2, {64, 128}, {128, 96}), 1000000, true, true),
      Case("one head per page, odd ranks", 4, 4, 64, 1, {16, 48, 80, 32}, {48, 16, 32, 112}),
      At(Case("gqa 4", 8, 2, 128, 2, {96}, {128}), 37, false, true),
      Case("gqa 8", 32, 4, 64, 4, {128}, {160}),
      Case("gqa 8, wide heads", 16, 2, 128, 1, {64, 96}, {96, 64}),
      Case("gqa 3", 6, 2, 64, 2, {64}, {64}),
      At(Case("keys plain", 8, 4, 64, 4, {}, {96}), 0, true, false),
      Case("keys plain, wide heads", 4, 2, 128, 1, {}, {64, 32}),
      At(Case("values plain", 8, 4, 64, 2, {64, 32}, {}), 1000000, true, true),
      Case("plain mha", 4, 4, 64, 1, {}, {}),
      Case("plain mha, wide heads", 4, 4, 128, 1, {}, {}),
      Case("plain gqa 2", 8, 4, 64, 1, {}, {}),
      Case("plain gqa 4, wide heads", 16, 4, 128, 1, {}, {}),
      Case("plain gqa 8", 16, 2, 64, 1, {}, {}),
      Case("plain gqa 8, wide heads", 8, 1, 128, 1, {}, {}),
      Case("plain gqa 3", 6, 2, 128, 1, {}, {}),
      Case("ranks of a real model", 4, 4, 128, 4, {256}, {256}),
      With(Case("ranks of a real model, 4 bits", 4, 4, 128, 4, {256}, {256}), {.bits = 4}),
      With(Case("keys plain, values of codes", 4, 4, 64, 4, {}, {96}), {.bits = 3}),
      With(Case("values plain, keys of codes", 4, 4, 64, 4, {96}, {}), {.bits = 4}),
      With(At(Case("codes in wide heads", 8, 2, 128, 2, {160}, {96}), 37, true, true), {.bits = 8}),
  };
  for (const auto& [k_group, v_group] : {std::pair{4, 2}, {1, 4}, {2, 1}}) {
    AttentionShapes s = Case("other pages for values", 8, 4, 64, k_group, {}, {});
    s.v_group = v_group;
    s.k_ranks.assign(static_cast<size_t>(4 / k_group), 64);
    s.v_ranks.assign(static_cast<size_t>(4 / v_group), 32);
    s.v_ranks.back() = 96;
    cases.push_back(s);
  }
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {false, true}) {
      cases.push_back(With(symmetric ? mha : gqa, {.bits = bits, .symmetric = symmetric}));
      cases.push_back(
          With(symmetric ? gqa : mha, {.bits = bits, .group = 32, .symmetric = symmetric}));
    }
    cases.push_back(With(gqa, {.bits = bits, .group = 40}));  // the last run is short
  }
  return cases;
}

// Lengths at borders of blocks and of warps, of several tiles and of several splits; the longest
// come last.
const std::vector<std::pair<int64_t, int64_t>> kRanges = {{0, 1},   {62, 1},  {63, 1},  {64, 1},
                                                          {149, 1}, {999, 1}, {4999, 1}};
const std::vector<size_t> kAll = {0, 1, 2, 3, 4, 5, 6};

// Latents have deviation 0.3, so heads rebuilt from r of them 0.3 up sqrt(r); five deviations bound
// nearly all of the numbers below. Unit roundoffs: u_p of the weights (operands of tensor cores;
// the kernel for plain pages keeps float), u_h of fp16 latents unpacked from codes, twice that from
// tiers, whose scales are rounded as well, else 0.
//  - A score is q k / sqrt(d) with q of order one: u_h and float sums of r + d terms move it by
//    e = 5 k (u_h + 4 2^-24 sqrt(r + d)), four for the rotations, k the deviation of a key (of 1
//    at least, with norms and biases).
//  - Weights (1 + delta) p, |delta| <= u_p + e, move an average of |v| <= V by 2 V (u_p + e).
//  - Unpacked latents of values move it by u_h V, the product with U and the rest by far less.
double Tolerance(const AttentionFixture& fixture, const AttentionShapes& s, DType out_dtype) {
  const auto widest = [](const CachedPages& pages) {
    double width = 0;
    for (const auto& page : pages.pages) width = std::max(width, static_cast<double>(page.width));
    return width;
  };
  const CachedPages &k = fixture.layer.k.pages, &v = fixture.layer.v.pages;
  const auto deviation = [&](const CachedPages& pages) {
    return pages.latent ? 0.3 * s.up_scale * std::sqrt(widest(pages)) : 0.3;
  };
  const auto unpacked = [](const CachedPages& pages) {
    return pages.quantized() ? (pages.tiered ? 2 : 1) * UnitRoundoff(DType::kF16) : 0.0;
  };
  const double u_p = !k.latent && !v.latent ? UnitRoundoff(DType::kF32)
                                            : UnitRoundoff(v.quantized() ? DType::kF16 : v.dtype);
  const double terms = widest(k) + static_cast<double>(s.head_dim);
  const double score_error = 5 * std::hypot(deviation(k), 1.0) *
                             (unpacked(k) + 4 * UnitRoundoff(DType::kF32) * std::sqrt(terms));
  const double bound = 5 * deviation(v);
  // A bias of values, of order one, passes through but is rounded with the output.
  const double rounded = out_dtype == DType::kF32 ? 0 : UnitRoundoff(out_dtype) * (bound + 5);
  return 2 * bound * (u_p + score_error) + unpacked(v) * bound + rounded + 1e-6;
}

void ExpectReference(const AttentionFixture& fixture, const std::vector<float>& out,
                     double tolerance) {
  const int64_t heads = fixture.layer.heads, d = fixture.layer.head_dim;
  for (size_t c = 0; c < fixture.chunks.size(); ++c) {
    // float64 loops are slow: of long sequences only some heads.
    const int64_t length = fixture.chunks[c].start + 1;
    const int64_t step = length <= 65 ? 1 : length <= 150 ? std::max<int64_t>(heads / 3, 1) : heads;
    for (int64_t h = length % heads % step; h < heads; h += step) {
      const std::vector<double> expected = fixture.Reference(fixture.chunks[c], h);
      for (int64_t i = 0; i < d; ++i) {
        const float actual =
            out[(c * static_cast<size_t>(heads) + static_cast<size_t>(h)) * static_cast<size_t>(d) +
                static_cast<size_t>(i)];
        ASSERT_NEAR(actual, expected[static_cast<size_t>(i)], tolerance)
            << "length " << length << " head " << h << " element " << i;
      }
    }
  }
}

int SharedMemory() {
  int bytes = 0;
  cuda::Check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
              "reading device properties");
  return bytes;
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

void ExpectReferences(const std::vector<AttentionShapes>& cases) {
  for (const AttentionShapes& s : cases) {
    for (const DType cache : {DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(fmt::format("{}, {} bits, {}{}, {} tiers{}, {}", s.name, s.quantization.bits,
                               s.quantization.group, s.quantization.symmetric ? " symmetric" : "",
                               s.tiers.size(), s.shared ? " of one latent" : "", Name(cache)));
      AttentionFixture fixture(s, cache, kRanges);
      DeviceAttention device(fixture, fixture.layer.k.norm_eps, s.first_position);
      if (!cuda::SupportsDecode(device.view)) {
        ASSERT_LT(SharedMemory(), 160 << 10);  // the widest tiles need more than some devices have
        continue;
      }
      const std::vector<float> out = device.Run(kAll);
      ExpectReference(fixture, out, Tolerance(fixture, s, DType::kF32));
      EXPECT_TRUE(SameBits(out, device.Run(kAll))) << "a second run differs";
    }
  }
}

TEST(CudaDecodeAttention, MatchesTheReference) {
  PALU_SKIP_WITHOUT_DEVICE();
  ExpectReferences(Cases());
}

TEST(CudaDecodeAttention, TiersMatchTheReference) {
  PALU_SKIP_WITHOUT_DEVICE();
  ExpectReferences(TieredCases());
}

TEST(CudaDecodeAttention, WindowsMatchTheReference) {
  PALU_SKIP_WITHOUT_DEVICE();
  ExpectReferences(WindowedCases());
}

TEST(CudaDecodeAttention, EveryOutputType) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const AttentionShapes& s :
       {Case("latent", 4, 2, 64, 2, {64}, {96}), Case("plain", 4, 2, 128, 1, {}, {})}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(std::string(s.name) + " " + std::string(Name(type)));
      AttentionFixture fixture(s, DType::kBF16, {{150, 1}, {700, 1}});
      DeviceAttention device(fixture, 0, 0);
      ExpectReference(fixture, device.Run({0, 1}, type), Tolerance(fixture, s, type));
    }
  }
}

TEST(CudaDecodeAttention, NeighboursChangeNoBitWhenAsked) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const AttentionShapes& s :
       {Case("latent", 8, 4, 64, 2, {64, 32}, {96, 64}),
        With(Case("codes", 4, 4, 128, 4, {128}, {96}), {.bits = 4}),
        In(Case("tiers", 8, 4, 64, 4, {80}, {80}), {{16, 4}, {64, 2}}, true),
        Windowed(In(Case("window", 8, 4, 64, 4, {80}, {80}), {{16, 4}, {64, 2}}, true), 16),
        Case("plain", 8, 2, 128, 1, {}, {})}) {
    SCOPED_TRACE(s.name);
    AttentionFixture fixture(s, DType::kBF16, kRanges);
    DeviceAttention device(fixture, 0, 0);
    device.view.batch_invariant = true;
    const std::vector<float> together = device.Run(kAll);
    const auto width = static_cast<size_t>(s.heads * s.head_dim);
    for (const size_t c : kAll) {
      EXPECT_TRUE(SameBits(std::span(together).subspan(c * width, width), device.Run({c}))) << c;
    }
    const std::vector<float> pair = device.Run({6, 2});
    EXPECT_TRUE(SameBits(std::span(pair).first(width), std::span(together).subspan(6 * width)));
  }
}

TEST(CudaDecodeAttention, RefusesWhatItCannotDo) {
  PALU_SKIP_WITHOUT_DEVICE();
  const auto supports = [](AttentionShapes s, DType cache) {
    s.quantization = {};
    AttentionFixture fixture(s, cache, {{0, 1}});
    DeviceAttention device(fixture, 0, 0);
    return cuda::SupportsDecode(device.view);
  };
  EXPECT_FALSE(supports(Case("16 query heads", 16, 1, 64, 1, {32}, {32}), DType::kF16));
  EXPECT_FALSE(supports(Case("wide tiles", 4, 4, 64, 4, {2048}, {2048}), DType::kF16));
  AttentionFixture fixture(Case("a rank of 24", 2, 2, 64, 1, {32, 32}, {32, 32}), DType::kF16,
                           {{0, 1}});
  DeviceAttention device(fixture, 0, 0);
  EXPECT_TRUE(cuda::SupportsDecode(device.view));
  device.view.v.width_divisor = 8;
  EXPECT_FALSE(cuda::SupportsDecode(device.view));
}

}  // namespace
}  // namespace palu::testing
