#include <algorithm>
#include <cmath>

#include "ops/cuda/attention.h"
#include "ops/cuda/cuda_testing.h"

namespace palu::cuda {
namespace {

using testing::Loaded;
using testing::Poison;
using testing::Stored;
using testing::ToDevice;
using testing::ToHost;
using testing::UnitRoundoff;

struct Case {
  DType dtype;
  int32_t head_dim, heads, kv_heads;
  PrefillChunk chunk;
  float magnitude = 1;                // of queries
  int64_t later_keys = 30;            // that no row sees
  std::vector<KeyBand> bands = {{}};  // which are added one after the other

  int64_t tokens() const { return chunk.start + chunk.count + later_keys; }
  bool Sees(int64_t token, int64_t key) const {
    return std::any_of(bands.begin(), bands.end(), [&](const KeyBand& band) {
      return key >= std::max(band.begin, token + 1 - band.last) &&
             key <= std::max(token - band.skipped, band.seen - 1);
    });
  }
  int64_t query_width() const { return int64_t{heads} * head_dim; }
  int64_t key_width() const { return int64_t{kv_heads} * head_dim; }
};

struct Result {
  std::vector<float> max, sum, acc, out;

  bool SameBits(const Result& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    return same(max, other.max) && same(sum, other.sum) && same(acc, other.acc) &&
           same(out, other.out);
  }
};

// Random queries, keys and values rounded to the type, on both sides.
class Problem {
 public:
  explicit Problem(const Case& shape)
      : shape_(shape),
        q_bytes_(Random(shape.chunk.count * shape.query_width(), 1, shape.magnitude)),
        k_bytes_(Random(shape.tokens() * shape.key_width(), 2, 1)),
        v_bytes_(Random(shape.tokens() * shape.key_width(), 3, 1)),
        q_(Loaded(q_bytes_, shape.dtype)),
        k_(Loaded(k_bytes_, shape.dtype)),
        v_(Loaded(v_bytes_, shape.dtype)),
        q_device_(ToDevice(q_bytes_)),
        k_device_(ToDevice(k_bytes_)),
        v_device_(ToDevice(v_bytes_)) {
    layer_.heads = shape.heads;
    layer_.kv_heads = shape.kv_heads;
    layer_.head_dim = shape.head_dim;
    layer_.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  }

  // Attention of the chunk's rows [row, row + count) to pieces of `piece` keys; with `future_first`
  // the first piece is one that no row sees.
  Result Run(int64_t piece, int64_t row, int64_t count, bool future_first = false,
             DType out_dtype = DType::kF32) const {
    const int64_t states = count * shape_.heads, size = count * shape_.query_width();
    auto max = Poison(states * 4), sum = Poison(states * 4), acc = Poison(size * 4);
    auto out = Poison(size * static_cast<int64_t>(SizeOf(out_dtype)));
    const SoftmaxStates softmax{reinterpret_cast<float*>(max.data()),
                                reinterpret_cast<float*>(sum.data())};
    auto* sums = reinterpret_cast<float*>(acc.data());
    bool first = true;
    const auto add = [&](const KeyBand& band, int64_t begin, int64_t end) {
      const int64_t at = begin * shape_.key_width() * ElementBytes();
      PrefillAttention(
          layer_, {shape_.chunk.start + row, count, band},
          {k_device_.data() + at, v_device_.data() + at, begin, end - begin, shape_.dtype},
          q_device_.data() + row * shape_.query_width() * ElementBytes(), first, softmax, sums,
          nullptr);
      first = false;
    };
    for (const KeyBand& band : shape_.bands) {
      if (future_first) add(band, shape_.chunk.start + shape_.chunk.count, shape_.tokens());
      for (int64_t begin = 0; begin < shape_.tokens(); begin += piece) {
        add(band, begin, std::min(begin + piece, shape_.tokens()));
      }
    }
    FinishPrefill(layer_, count, softmax, sums, out_dtype, out.data(), nullptr);
    return {Loaded(ToHost(max), DType::kF32), Loaded(ToHost(sum), DType::kF32),
            Loaded(ToHost(acc), DType::kF32), Loaded(ToHost(out), out_dtype)};
  }
  Result Run(int64_t piece) const { return Run(piece, 0, shape_.chunk.count); }

  // Row by row in float64, with how far a result may be from it:
  // a score is a sum of d products in float32, whose error is at most gamma = (d + 8) 2^-23 of the
  // sum of their magnitudes (the factor 2 over the usual bound allows tensor cores to truncate; 8
  // covers the scaling and the shift by the maximum), so a probability is off by a factor
  // 1 + 2 gamma |q| |k| scale, 1 + 2^-20 for the exponential, and 1 + u where it is rounded to 16
  // bits. The sums over n keys, rescaled at most once per tile of 64, add 2 (n + n/64) 2^-23. All
  // of it counts for numerator and denominator. In F16 small probabilities lose up to 2^-25 each.
  void Check(const Result& result, DType out_dtype = DType::kF32) const {
    const int64_t d = shape_.head_dim;
    const double u = shape_.dtype == DType::kF32 ? 0 : UnitRoundoff(shape_.dtype);
    const double subnormal = shape_.dtype == DType::kF16 ? 0x1p-25 : 0;
    const double gamma = static_cast<double>(d + 8) * 0x1p-23;
    for (int64_t t = 0; t < shape_.chunk.count; ++t) {
      const int64_t keys = shape_.chunk.start + t + 1;
      std::vector<double> scores(static_cast<size_t>(keys));
      for (int64_t head = 0; head < shape_.heads; ++head) {
        const int64_t column = head / (shape_.heads / shape_.kv_heads) * d;
        const float* q = q_.data() + t * shape_.query_width() + head * d;
        double top = -INFINITY, magnitude = 0, total = 0;
        for (int64_t s = 0; s < keys; ++s) {
          if (!shape_.Sees(shape_.chunk.start + t, s)) continue;
          const float* k = k_.data() + s * shape_.key_width() + column;
          double score = 0, absolute = 0;
          for (int64_t i = 0; i < d; ++i) {
            const double product = double{q[i]} * k[i];
            score += product;
            absolute += std::abs(product);
          }
          scores[static_cast<size_t>(s)] = score * layer_.scale;
          magnitude = std::max(magnitude, absolute * layer_.scale);
          top = std::max(top, score * layer_.scale);
        }
        std::vector<double> out(static_cast<size_t>(d)), size(static_cast<size_t>(d));
        for (int64_t s = 0; s < keys; ++s) {
          if (!shape_.Sees(shape_.chunk.start + t, s)) continue;
          const double p = std::exp(scores[static_cast<size_t>(s)] - top);
          const float* v = v_.data() + s * shape_.key_width() + column;
          total += p;
          for (int64_t i = 0; i < d; ++i) {
            out[static_cast<size_t>(i)] += p * v[i];
            size[static_cast<size_t>(i)] += (p + subnormal) * std::abs(v[i]);
          }
        }
        if (total == 0) total = 1;  // of no keys: zeros
        const auto n = static_cast<double>(keys);
        const double relative = u + 2 * (2 * gamma * magnitude + 0x1p-20 + 2.1 * n * 0x1p-23);
        for (int64_t i = 0; i < d; ++i) {
          const auto at = static_cast<size_t>(i);
          const double expected = out[at] / total;
          double bound = std::expm1(relative) * size[at] / total +
                         subnormal * (size[at] > 0 ? n * 5 : 0) / total;
          if (out_dtype != DType::kF32) {
            bound += UnitRoundoff(out_dtype) * (std::abs(expected) + bound) + subnormal;
          }
          const float found =
              result.out[static_cast<size_t>(t * shape_.query_width() + head * d + i)];
          ASSERT_TRUE(std::abs(found - expected) <= bound)  // false for NaN
              << "row " << t << ", head " << head << ", column " << i << ": " << found << " for "
              << expected << ", bound " << bound;
        }
      }
    }
  }

  void RunAndCheck() const {
    const Result whole = Run(shape_.tokens());
    ASSERT_NO_FATAL_FAILURE(Check(whole));
    EXPECT_TRUE(whole.SameBits(Run(shape_.tokens()))) << "a second run differs";
    for (const int64_t piece : {64, 128, 100}) {
      SCOPED_TRACE(piece);
      ASSERT_NO_FATAL_FAILURE(Check(Run(piece)));
    }
    ASSERT_NO_FATAL_FAILURE(Check(Run(64, 0, shape_.chunk.count, true)));
  }

 private:
  int64_t ElementBytes() const { return static_cast<int64_t>(SizeOf(shape_.dtype)); }
  std::vector<std::byte> Random(int64_t n, uint32_t seed, float scale) const {
    return Stored(testing::RandomFloats(n, seed, scale), shape_.dtype);
  }

  Case shape_;
  AttentionView layer_;
  std::vector<std::byte> q_bytes_, k_bytes_, v_bytes_;
  std::vector<float> q_, k_, v_;
  DeviceBuffer<std::byte> q_device_, k_device_, v_device_;
};

constexpr PrefillChunk kChunks[] = {{0, 1}, {0, 70}, {130, 40}, {63, 2}};
constexpr int32_t kRatios[][2] = {{2, 2}, {4, 2}, {4, 1}, {8, 1}};  // heads, KV heads

TEST(CudaPrefill, EqualsFloat64) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : testing::kStored) {
    for (const int32_t d : {64, 128, 32, 80}) {
      for (const auto& [heads, kv_heads] : kRatios) {
        for (const PrefillChunk& chunk : kChunks) {
          SCOPED_TRACE(::testing::Message()
                       << Name(dtype) << ", d " << d << ", " << heads << "/" << kv_heads
                       << " heads, " << chunk.count << " rows at " << chunk.start);
          ASSERT_NO_FATAL_FAILURE(Problem({dtype, d, heads, kv_heads, chunk}).RunAndCheck());
        }
      }
    }
  }
}

TEST(CudaPrefill, LongContext) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : testing::kStored) {
    for (const int32_t d : {64, 128}) {
      SCOPED_TRACE(::testing::Message() << Name(dtype) << ", d " << d);
      ASSERT_NO_FATAL_FAILURE(Problem({dtype, d, 4, 2, {1000, 129}}).RunAndCheck());
    }
  }
}

TEST(CudaPrefill, OtherHeadDimsInFloat32) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const int32_t d : {8, 40, 136, 256}) {
    SCOPED_TRACE(d);
    ASSERT_NO_FATAL_FAILURE(Problem({DType::kF32, d, 4, 2, {130, 40}}).RunAndCheck());
  }
}

// Bands around the diagonal, short, over several tiles of keys and rows, and with rows that see
// nothing; a band and the keys before it, one after the other, are all keys.
TEST(CudaPrefill, BandsOfKeys) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : testing::kStored) {
    for (const int32_t d : {64, 128, 32}) {
      for (const PrefillChunk& chunk : {PrefillChunk{0, 300}, {130, 40}, {63, 2}, {700, 1}}) {
        for (const int64_t recent : {1, 16, 100}) {
          for (const int64_t lost : {0, 3}) {
            const int64_t begin = std::clamp<int64_t>(chunk.start - recent + lost, 0, chunk.start);
            const KeyBand far{.skipped = recent, .seen = begin};
            const KeyBand near{.begin = begin, .last = recent};
            for (const auto& bands : {std::vector{far}, {near}, {far, near}}) {
              SCOPED_TRACE(::testing::Message()
                           << Name(dtype) << ", d " << d << ", " << chunk.count << " rows at "
                           << chunk.start << ", " << recent << " recent, " << bands.size()
                           << " bands, begin " << begin);
              ASSERT_NO_FATAL_FAILURE(Problem({dtype, d, 4, 2, chunk, 1, 30, bands}).RunAndCheck());
            }
          }
        }
      }
    }
  }
}

// Scores of hundreds: all but a few probabilities vanish, and maxima move far.
TEST(CudaPrefill, LargeScores) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : testing::kStored) {
    for (const int32_t d : {64, 128, 32}) {
      SCOPED_TRACE(::testing::Message() << Name(dtype) << ", d " << d);
      ASSERT_NO_FATAL_FAILURE(Problem({dtype, d, 4, 2, {130, 40}, 100}).RunAndCheck());
    }
  }
}

TEST(CudaPrefill, ARowDoesNotDependOnItsChunk) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : testing::kStored) {
    for (const int32_t d : {64, 128, 32}) {
      SCOPED_TRACE(::testing::Message() << Name(dtype) << ", d " << d);
      const Case shape{dtype, d, 4, 2, {100, 150}};
      const Problem problem(shape);
      const std::vector<float> all = problem.Run(128).out;
      for (const auto& [row, count] : {std::pair<int64_t, int64_t>{0, 1}, {27, 65}, {149, 1}}) {
        const std::vector<float> some = problem.Run(128, row, count).out;
        EXPECT_EQ(std::memcmp(some.data(), all.data() + row * shape.query_width(),
                              some.size() * sizeof(float)),
                  0)
            << count << " rows from " << row;
      }
    }
  }
}

TEST(CudaPrefill, OutputOfSixteenBits) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const Problem problem({dtype, 64, 4, 2, {10, 20}});
    problem.Check(problem.Run(64, 0, 20, false, dtype), dtype);
  }
}

TEST(CudaPrefill, RowsWithoutAnyKey) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : testing::kStored) {
    const int32_t d = 64, heads = 2;
    AttentionView layer;
    layer.heads = layer.kv_heads = heads;
    layer.head_dim = d;
    layer.scale = 0.125f;
    const int64_t rows = 3, size = rows * heads * d;
    const auto data = ToDevice(Stored(testing::RandomFloats(10 * heads * d, 1), dtype));
    auto max = ToDevice(std::vector<float>(static_cast<size_t>(rows * heads), NAN));
    auto sum = ToDevice(std::vector<float>(static_cast<size_t>(rows * heads), NAN));
    auto acc = ToDevice(std::vector<float>(static_cast<size_t>(size), NAN));
    auto out = ToDevice(std::vector<float>(static_cast<size_t>(size), NAN));
    for (const bool first : {true, false}) {
      PrefillAttention(layer, {0, rows}, {data.data(), data.data(), 3, 10, dtype}, data.data(),
                       first, {max.data(), sum.data()}, acc.data(), nullptr);
    }
    FinishPrefill(layer, rows, {max.data(), sum.data()}, acc.data(), DType::kF32, out.data(),
                  nullptr);
    for (const float x : ToHost(max)) EXPECT_EQ(x, -INFINITY);
    for (const float x : ToHost(sum)) EXPECT_EQ(x, 0);
    for (const float x : ToHost(acc)) EXPECT_EQ(x, 0);
    for (const float x : ToHost(out)) EXPECT_EQ(x, 0);
  }
}

}  // namespace
}  // namespace palu::cuda
