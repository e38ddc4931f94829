// Decode attention by the frequency split against float64 loops.
#include "ops/cuda/split_plan.h"

#include <fmt/format.h>

#include <complex>

#include "compress/rotary_basis.h"
#include "device_attention.h"
#include "linalg/random_matrix.h"
#include "ops/frequency_split.h"

namespace palu::testing {
namespace {

struct Case {
  const char* name;
  int64_t kv_heads, head_dim;
  std::vector<int64_t> k_ranks, v_ranks;
  int bits;
  bool symmetric = false;
  int64_t first_position = 0;
  int64_t queries = 1;  // per KV head
  double theta = 10000;
  bool bias = false;
  bool rotary = false;  // keys in the rotary basis
};

AttentionShapes Shapes(const Case& c) {
  AttentionShapes s{c.name,   c.kv_heads * c.queries, c.kv_heads, c.head_dim, 4, c.k_ranks,
                    c.v_ranks};
  s.theta = c.theta;
  s.bias = c.bias;
  s.first_position = c.first_position;
  if (c.bits < 16) s.quantization = {.bits = c.bits, .symmetric = c.symmetric};
  s.device = true;
  s.up_scale = 0.25f;
  if (c.rotary) s.rotary_pairs = FastPairs(c.queries, c.head_dim);
  return s;
}

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {"llama-2 at half", 4, 128, {256}, {256}, 4},
      {"llama-2 at half, far", 4, 128, {256}, {256}, 4, false, 1000000},
      {"few keys, many values", 4, 128, {128}, {384}, 4},
      {"two units of other ranks", 8, 128, {96, 256}, {352, 64}, 4, true},
      {"full rank", 4, 128, {512}, {512}, 4},
      {"narrow heads", 4, 64, {128}, {128}, 4, false, 37},
      {"three bits", 4, 128, {256}, {256}, 3},
      {"three bits, narrow", 4, 64, {128}, {128}, 3, true},
      {"two bits", 4, 128, {256}, {256}, 2},
      {"two bits, other ranks", 8, 128, {64, 320}, {192, 512}, 2},
      {"eight bits", 4, 128, {256}, {256}, 8},
      {"eight bits, other ranks", 8, 64, {112, 128}, {48, 160}, 8, true},
      {"elements", 4, 128, {128}, {256}, 16},
      {"elements, few keys", 4, 128, {128}, {384}, 16, false, 1000000},
      {"llama-3 at half", 4, 128, {256}, {256}, 4, false, 0, 4, 5e5},
      {"llama-3 at half, far", 8, 128, {256, 224}, {256, 96}, 4, false, 1000000, 4, 5e5},
      {"two queries", 4, 128, {128}, {384}, 4, true, 77, 2, 5e5},
      {"three queries, narrow", 4, 64, {128}, {128}, 3, false, 0, 3, 1e4},
      {"llama-3, three bits", 4, 128, {256}, {256}, 3, false, 0, 4, 5e5},
      {"llama-3, two bits", 8, 128, {256, 64}, {192, 512}, 2, false, 0, 4, 1e6},
      {"qwen-2.5 at half", 4, 128, {256}, {256}, 4, false, 0, 7, 1e6},
      {"qwen-2.5 with a bias", 4, 128, {256}, {256}, 4, false, 5000, 7, 1e6, true},
      {"llama-3 with a bias", 8, 128, {256, 128}, {256, 128}, 3, false, 0, 4, 5e5, true},
      {"eight queries, far", 8, 128, {128, 384}, {384, 32}, 4, true, 1000000, 8, 5e5},
      {"rotary basis", 4, 128, {256}, {256}, 4, false, 0, 1, 10000, false, true},
      {"rotary basis, far, three bits",
       4,
       128,
       {256},
       {128},
       3,
       true,
       1000000,
       1,
       1e4,
       false,
       true},
      {"rotary basis, two bits", 8, 128, {256, 512}, {256, 64}, 2, false, 0, 1, 1e4, false, true},
      {"rotary basis, narrow", 4, 64, {128}, {128}, 4, false, 0, 1, 10000, false, true},
      {"rotary basis, llama-3", 4, 128, {256}, {256}, 4, false, 0, 4, 5e5, false, true},
      {"rotary basis, qwen-2.5", 4, 128, {384}, {256}, 4, false, 0, 7, 1e6, true, true},
      {"five queries, narrow, two bits", 4, 64, {128}, {256}, 2, false, 0, 5, 1e4},
  };
  return cases;
}

const std::vector<std::pair<int64_t, int64_t>> kRanges = {{0, 1},   {63, 1},  {64, 1},  {255, 1},
                                                          {256, 1}, {999, 1}, {4999, 1}};
const std::vector<size_t> kAll = {0, 1, 2, 3, 4, 5, 6};

// The largest |U_x + i U_y| of a pair of a head.
double PairBound(const AttentionFixture& fixture, int64_t head, int64_t pair) {
  const int64_t d = fixture.layer.head_dim, in_page = head % 4;
  const TensorView& up = fixture.layer.k.up[static_cast<size_t>(head / 4)];
  std::vector<float> rows(static_cast<size_t>(2 * up.cols()));
  for (int64_t part = 0; part < 2; ++part) {
    const auto* from = static_cast<const std::byte*>(up.data) +
                       (in_page * d + pair + part * d / 2) * up.cols() * 2;
    ToFloat(from, up.dtype, up.cols(), rows.data() + part * up.cols());
  }
  double most = 0;
  for (size_t i = 0; i < rows.size() / 2; ++i) {
    most = std::max(most, std::hypot<double>(rows[i], rows[i + rows.size() / 2]));
  }
  return most;
}

// Steps to which entries of W are rounded, squared and summed over the rows that meet a query
// head's keys. Those of slow pairs are at most the sum of their pairs' bounds over the largest
// byte. Absorbed rows of a fast pair have the step pairs[f] heads[h] (FastScales); rows of U have
// their largest entry's over 127, times the query.
double SquaredSteps(const AttentionFixture& fixture, const FrequencySplit& split, size_t chunk,
                    int64_t head, double largest) {
  const int64_t half = fixture.layer.head_dim / 2;
  const int64_t queries = fixture.layer.heads / fixture.layer.kv_heads, first = head / 4 * 4;
  const float* q = fixture.q.Row(fixture.chunks[chunk].row);
  const auto need = [&](int64_t h, int64_t f) {
    const float* x = q + h * 2 * half;
    return std::hypot<double>(x[f], x[f + half]) * PairBound(fixture, h / queries, f);
  };
  const auto head_scale = [&](int64_t h) {
    double sum = 0;
    for (int64_t f = 0; f < split.exact_pairs; ++f) sum += need(h, f) * need(h, f);
    return std::sqrt(sum / static_cast<double>(split.exact_pairs));
  };
  double steps = 0;
  for (int64_t f = 0; f < split.exact_pairs; ++f) {
    double step = need(head, f) / largest;
    for (int64_t h = first; h < first + 4 && queries == 1; ++h) {
      step = std::max(step, need(h, f) / head_scale(h) * head_scale(head) / largest);
    }
    steps += step * step;  // both rows together, since rotation keeps their square sum
  }
  for (int64_t j = 0; j < split.terms; ++j) {
    double bound = 0;
    for (int64_t f = 0; f < split.slow_pairs(); ++f) {
      bound += std::abs(split.Coefficients(j)[f]) * need(head, split.exact_pairs + f);
    }
    steps += bound / largest * bound / largest;
  }
  return steps;
}

// As for the other kernel (decode_attention_test.cc): weights (1 + delta) p move an average of |v|
// <= V by 2 V |delta|, delta = u_p + e, e the error of a score. It has three parts: waves of the
// slow pairs (rms_error of what they add, at most 5 of its deviations), rounded rows W (uniform
// within half a step: deviation step / sqrt(12) sqrt(r) 0.3 for latents of deviation 0.3; 5
// deviations), and products of fp16 numbers: W of slow pairs, and with several queries per KV head
// also rotated keys and queries (2 u_h each, as their terms add up at random).
double Tolerance(const AttentionFixture& fixture, const Case& c, const FrequencySplit& split,
                 size_t chunk, int64_t head) {
  const auto page = static_cast<size_t>(head / c.queries / 4);
  const auto rank = static_cast<double>(c.k_ranks[page]);
  const double key = 0.3 * 0.25 * std::sqrt(rank), score = std::max(key, 1.0) * 1.5;
  const double bytes = IntegerRows(c.bits) ? 127.0 : 1024.0 * 8;  // fp16: 11 bits of any entry
  const double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  const double rounded =
      std::sqrt(SquaredSteps(fixture, split, chunk, head, bytes) / 12 * rank) * 0.3;
  const double halves = (c.queries > 1 ? 4 : 2) * UnitRoundoff(DType::kF16);
  const double e = 5 * (score * (split.rms_error + halves) + scale * rounded);
  const double v = 5 * 0.3 * 0.25 * std::sqrt(static_cast<double>(c.v_ranks[page]));
  return 2 * v * (UnitRoundoff(DType::kF16) + e) + 1e-6;
}

TEST(SplitPlan, FindsTheRotaryBasis) {
  for (const int bits : {2, 3, 4}) {
    for (const int64_t queries : {1, 4, 8}) {
      constexpr int64_t kDim = 128, kRank = 256;
      GroupFactors factors{
          RandomMatrix<double>(4 * kDim, kRank, 1), RandomMatrix<double>(kRank, 8, 2), {}};
      const auto found = [&](int stored_bits) {
        std::vector<float> up;
        for (int64_t i = 0; i < factors.up.size(); ++i) {
          up.push_back(static_cast<float>(factors.up.data()[i]));
        }
        const TensorView view{up.data(), DType::kF32, {4 * kDim, kRank}, kCpu};
        cuda::ProjectionView keys;
        keys.latent = true;
        keys.heads_per_page = 4;
        keys.max_width = keys.width_divisor = kRank;
        keys.bits = stored_bits;
        cuda::PageView page;
        page.width = kRank;
        return cuda::HasRotaryBasis(keys, page, view, kDim, static_cast<int32_t>(queries));
      };
      EXPECT_FALSE(found(bits));
      TurnToRotaryBasis({kDim, FastPairs(queries, kDim), bits}, true, factors);
      EXPECT_TRUE(found(bits)) << bits << " bits, " << queries << " queries";
      EXPECT_FALSE(found(bits == 4 ? 2 : 4));  // another order of latents
    }
  }
}

TEST(CudaSplitDecode, MatchesTheReference) {
  PALU_SKIP_WITHOUT_DEVICE();
  int major = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  if (major != 9) GTEST_SKIP() << "no Hopper GPU";
  for (const Case& c : Cases()) {
    SCOPED_TRACE(fmt::format("{}, {} bits", c.name, c.bits));
    AttentionFixture fixture(Shapes(c), DType::kF16, kRanges);
    DeviceAttention device(fixture, 0, c.first_position);
    device.UseFrequencySplit();
    ASSERT_GT(device.view.split.terms, 0);
    ASSERT_TRUE(cuda::DecodesSplit(device.view));
    EXPECT_EQ(device.view.k.rotary_basis, c.rotary);
    const FrequencySplit split =
        MakeFrequencySplit(fixture.frequencies(), device.view.split.block_tokens,
                           device.view.split.exact_pairs, device.view.split.terms);
    const std::vector<float> out = device.Run(kAll);
    const auto d = static_cast<size_t>(c.head_dim);
    const auto heads = static_cast<size_t>(c.kv_heads * c.queries);
    double worst = 0;
    for (size_t i = 0; i < fixture.chunks.size(); ++i) {
      const size_t step = fixture.chunks[i].start < 300 ? 1 : 3;
      for (size_t h = i % step; h < heads; h += step) {
        const auto head = static_cast<int64_t>(h);
        const std::vector<double> expected = fixture.Reference(fixture.chunks[i], head);
        const double tolerance = Tolerance(fixture, c, split, i, head);
        for (size_t e = 0; e < d; ++e) {
          const float actual = out[(i * heads + h) * d + e];
          ASSERT_NEAR(actual, expected[e], tolerance)
              << "length " << fixture.chunks[i].start + 1 << " head " << h << " element " << e;
          worst = std::max(worst, std::abs(actual - expected[e]) / tolerance);
        }
      }
    }
    RecordProperty(fmt::format("{}, {} bits", c.name, c.bits), fmt::format("{:.3f}", worst));
    const std::vector<float> again = device.Run(kAll);
    EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(float)), 0);
  }
}

}  // namespace
}  // namespace palu::testing
