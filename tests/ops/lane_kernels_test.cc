// The kernels with tokens in lanes: every instruction set gives the bits of the plain loops, and
// weighted sums of values agree with float64.
#include "ops/cpu/lane_kernels.h"

#include <cmath>

#include "base/rng.h"
#include "ops/cpu/lane_values.h"
#include "ops_testing.h"

namespace palu::testing {
namespace {

using cpu::kRowGroup;
using cpu::kTileLanes;
using cpu::LaneKernels;

constexpr int64_t kGuard = 7;  // elements past the end that must stay

template <class T>
struct Aligned {
  explicit Aligned(int64_t n) : buffer(n) { std::fill_n(buffer.data(), n, T{99}); }
  T* data() const { return buffer.data(); }
  std::vector<T> values() const { return {data(), data() + buffer.size()}; }
  AlignedBuffer<T> buffer;
};

template <class T>
void FillRandom(Rng& rng, T* data, int64_t n, int64_t low, uint64_t count) {
  for (int64_t i = 0; i < n; ++i) {
    data[i] = static_cast<T>(low + static_cast<int64_t>(rng.Below(count)));
  }
}

class EveryLaneKernel : public ::testing::Test {
 protected:
  const LaneKernels& plain = cpu::PortableLaneKernels();
  const LaneKernels& best = cpu::BestLaneKernels() != nullptr ? *cpu::BestLaneKernels() : plain;
  Rng rng{11};
};

TEST_F(EveryLaneKernel, Transposes) {
  for (const int64_t dwords : {1, 2, 10, 16, 17, 33}) {
    std::vector<std::vector<int32_t>> rows;
    std::vector<const void*> pointers;
    for (int64_t t = 0; t < kTileLanes; ++t) {  // ends exactly at the last element
      rows.emplace_back(static_cast<size_t>(dwords));
      FillRandom(rng, rows.back().data(), dwords, -1000, 2000);
    }
    for (const auto& row : rows) pointers.push_back(row.data());
    for (const LaneKernels* kernels : {&plain, &best}) {
      const Aligned<int32_t> lanes(dwords * kTileLanes);
      kernels->transpose(pointers.data(), dwords, lanes.data());
      for (int64_t d = 0; d < dwords; ++d) {
        for (int64_t t = 0; t < kTileLanes; ++t) {
          ASSERT_EQ(lanes.data()[d * kTileLanes + t],
                    rows[static_cast<size_t>(t)][static_cast<size_t>(d)]);
        }
      }
    }
  }
}

// Random rows of packed codes, in an allocation of exactly their bytes, and the codes.
struct PackedCodes {
  PackedCodes(int code_bits, int64_t latents, Rng& rng)
      : quantization{.bits = code_bits},
        width(latents),
        packed(static_cast<size_t>(kTileLanes * quantization.code_bytes(width))),
        codes(static_cast<size_t>(kTileLanes * width)) {
    FillRandom(rng, packed.data(), std::ssize(packed), 0, 256);
    UnpackCodes(quantization, {.codes = packed.data(), .width = width}, kTileLanes, codes.data());
  }
  cpu::LaneCodes View() const {
    return {packed.data(), quantization.code_bytes(width), width, quantization.bits};
  }
  uint8_t At(int64_t t, int64_t i) const { return codes[static_cast<size_t>(t * width + i)]; }

  LatentQuantization quantization;
  int64_t width;
  std::vector<uint8_t> packed, codes;
};

constexpr int64_t kWidths[] = {8, 16, 24, 32, 64, 96, 128, 200, 272, 320};

TEST_F(EveryLaneKernel, LoadsCodesWithTokensInLanes) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t width : kWidths) {
      if (!cpu::HasWholeQuads(bits, width)) continue;
      const PackedCodes rows(bits, width, rng);
      for (const LaneKernels* kernels : {&plain, &best}) {
        const Aligned<uint8_t> lanes(width * kTileLanes);
        kernels->load_codes(rows.View(), lanes.data());
        for (int64_t t = 0; t < kTileLanes; ++t) {
          for (int64_t i = 0; i < width; ++i) {
            ASSERT_EQ(lanes.data()[(i / 4 * kTileLanes + t) * 4 + i % 4], rows.At(t, i))
                << bits << " " << width;
          }
        }
      }
    }
  }
}

TEST_F(EveryLaneKernel, LoadsCodesWithLatentsInLanes) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t width : kWidths) {
      const PackedCodes rows(bits, width, rng);
      const int64_t stride = (width + 15) / 16 * 64;
      for (const LaneKernels* kernels : {&plain, &best}) {
        const Aligned<uint8_t> lanes(kTileLanes / 4 * stride);
        kernels->load_values(rows.View(), stride, lanes.data());
        for (int64_t t = 0; t < kTileLanes; ++t) {
          for (int64_t i = 0; i < width; ++i) {
            ASSERT_EQ(lanes.data()[t / 4 * stride + 4 * i + t % 4], rows.At(t, i))
                << bits << " " << width;
          }
        }
      }
    }
  }
}

TEST_F(EveryLaneKernel, ProductsAreExact) {
  for (const int64_t quads : {1, 2, 16, 33}) {
    const Aligned<uint8_t> lanes(quads * kTileLanes * 4);
    const Aligned<int8_t> rows(quads * kRowGroup * 4);
    FillRandom(rng, lanes.data(), lanes.buffer.size(), 0, 256);
    FillRandom(rng, rows.data(), rows.buffer.size(), -128, 256);
    const Aligned<int32_t> found(kRowGroup * kTileLanes);
    best.products(lanes.data(), rows.data(), quads, found.data());
    for (int64_t r = 0; r < kRowGroup; ++r) {
      for (int64_t t = 0; t < kTileLanes; ++t) {
        int64_t sum = 0;
        for (int64_t i = 0; i < 4 * quads; ++i) {
          sum += lanes.data()[(i / 4 * kTileLanes + t) * 4 + i % 4] *
                 rows.data()[(i / 4 * kRowGroup + r) * 4 + i % 4];
        }
        ASSERT_EQ(found.data()[r * kTileLanes + t], sum);
      }
    }
  }
}

// Planes hold a number to half a step of its row's largest over 32639, and every kernel the same.
TEST_F(EveryLaneKernel, SplitsIntoPlanes) {
  for (const int64_t n : {4, 12, 16, 28, 64, 100}) {
    for (const float size : {0.0f, 1e-30f, 1.0f, 1e30f}) {
      const std::vector<float> x = RandomFloats(n, 3, size);
      std::vector<int32_t> weights(static_cast<size_t>(n));
      FillRandom(rng, weights.data(), n, 0, 16);
      Aligned<int8_t> high(4 * n + kGuard), low(4 * n + kGuard), expected_high(4 * n + kGuard),
          expected_low(4 * n + kGuard);
      const cpu::PlaneSums sums =
          best.split_planes(x.data(), weights.data(), n, high.data(), low.data());
      const cpu::PlaneSums expected = plain.split_planes(x.data(), weights.data(), n,
                                                         expected_high.data(), expected_low.data());
      EXPECT_EQ(high.values(), expected_high.values());
      EXPECT_EQ(low.values(), expected_low.values());
      EXPECT_EQ(sums.scale, expected.scale);
      EXPECT_EQ(sums.high, expected.high);
      EXPECT_EQ(sums.low, expected.low);
      int64_t top = 0, rest = 0;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = i / 4 * 16 + i % 4;
        const double joined = 256.0 * high.data()[at] + low.data()[at];
        // Half a step, and the rounding of x over the scale, up to 32639 steps.
        ASSERT_NEAR(joined * double{sums.scale}, x[static_cast<size_t>(i)],
                    (0.5 + 3 * 32639 * kEps) * double{sums.scale});
        top += high.data()[at] * weights[static_cast<size_t>(i)];
        rest += low.data()[at] * weights[static_cast<size_t>(i)];
      }
      EXPECT_EQ(sums.high, static_cast<float>(top));
      EXPECT_EQ(sums.low, static_cast<float>(rest));
    }
  }
}

// What is too small for a scale becomes nothing, and a NaN reaches the sums.
TEST_F(EveryLaneKernel, TinyRowsVanishAndNansStay) {
  const std::vector<int32_t> weights(20, 15);
  for (const LaneKernels* kernels : {&plain, &best}) {
    Aligned<int8_t> high(80), low(80);
    std::vector<float> x(20, 1e-36f);
    EXPECT_LT(kernels->split_planes(x.data(), weights.data(), 20, high.data(), low.data()).scale,
              std::numeric_limits<float>::min());
    for (int64_t i = 0; i < 20; ++i) {
      ASSERT_EQ(high.data()[i / 4 * 16 + i % 4], 0);
      ASSERT_EQ(low.data()[i / 4 * 16 + i % 4], 0);
    }
    for (const int64_t at : {0, 7, 19}) {
      x.assign(20, 1.0f);
      x[static_cast<size_t>(at)] = std::numeric_limits<float>::quiet_NaN();
      const cpu::PlaneSums sums =
          kernels->split_planes(x.data(), weights.data(), 20, high.data(), low.data());
      EXPECT_TRUE(std::isnan(sums.scale)) << at;
      const Aligned<int32_t> zeros(kTileLanes);
      const Aligned<float> out(kTileLanes);
      kernels->join_planes(zeros.data(), zeros.data(), sums, out.data());
      for (int64_t i = 0; i < kTileLanes; ++i) ASSERT_TRUE(std::isnan(out.data()[i]));
    }
  }
}

TEST_F(EveryLaneKernel, RoundsRows) {
  for (const int64_t n : {4, 16, 40, 200}) {
    const std::vector<float> x = RandomFloats(n, 5, 0.3f);
    Aligned<int8_t> row(4 * n), expected(4 * n);
    int32_t sum = 0, expected_sum = 0, total = 0;
    const float scale = best.round_row(x.data(), n, row.data(), &sum);
    EXPECT_EQ(scale, plain.round_row(x.data(), n, expected.data(), &expected_sum));
    EXPECT_EQ(row.values(), expected.values());
    for (int64_t i = 0; i < n; ++i) {
      const int8_t rounded = row.data()[i / 4 * 16 + i % 4];
      ASSERT_NEAR(rounded * double{scale}, x[static_cast<size_t>(i)],
                  (0.5 + 3 * 127 * kEps) * double{scale});
      total += rounded;
    }
    EXPECT_EQ(sum, total);
    EXPECT_EQ(expected_sum, total);
  }
}

// Inputs of the kernels that follow: the same for every kernel under test.
struct Lanes {
  explicit Lanes(int64_t quads_of_codes)
      : quads(quads_of_codes), codes(quads * kTileLanes * 4), rows(quads * kRowGroup * 4) {
    Rng rng(17);
    FillRandom(rng, codes.data(), codes.buffer.size(), 0, 256);
    FillRandom(rng, rows.data(), rows.buffer.size(), -127, 255);
    for (const Aligned<float>* x : {&up_scales, &start, &scales, &cos, &sin, &queries, &keys}) {
      rng.FillUniform({x->data(), static_cast<size_t>(x->buffer.size())}, -1.0f, 1.0f);
    }
    for (int64_t r = 0; r < kRowGroup; ++r) {
      up_sums.data()[r] = 0;
      for (int64_t i = 0; i < 4 * quads; ++i) up_sums.data()[r] += Row(r, i);
    }
    FillRandom(rng, zeros.data(), kTileLanes, 0, 16);
  }
  float Row(int64_t r, int64_t i) const {
    return static_cast<float>(rows.data()[(i / 4 * kRowGroup + r) * 4 + i % 4]);
  }

  int64_t quads;
  Aligned<uint8_t> codes;
  Aligned<int8_t> rows;
  Aligned<float> up_scales{kRowGroup}, up_sums{kRowGroup}, start{kRowGroup}, scales{kTileLanes},
      zeros{kTileLanes}, cos{2 * kTileLanes}, sin{2 * kTileLanes}, queries{7 * 6},
      keys{kRowGroup * kTileLanes};
};

TEST_F(EveryLaneKernel, AddsRows) {
  for (const int64_t quads : {1, 4, 33}) {
    const Lanes in(quads);
    for (const bool scaled : {false, true}) {
      for (const bool started : {false, true}) {
        const auto run = [&](const LaneKernels& kernels) {
          Aligned<float> out(kRowGroup * kTileLanes);
          kernels.add_rows({.codes = in.codes.data(),
                            .quads = quads,
                            .rows = in.rows.data(),
                            .up_scales = in.up_scales.data(),
                            .up_sums = in.up_sums.data(),
                            .zeros = in.zeros.data(),
                            .scales = scaled ? in.scales.data() : nullptr,
                            .start = started ? in.start.data() : nullptr,
                            .out = out.data()});
          return out.values();
        };
        const std::vector<float> found = run(best);
        EXPECT_EQ(found, run(plain));
        for (int64_t r = 0; r < kRowGroup; ++r) {
          for (int64_t t = 0; t < kTileLanes; ++t) {
            double sum = 0, magnitude = 0;
            for (int64_t i = 0; i < 4 * quads; ++i) {
              const double code = in.codes.data()[(i / 4 * kTileLanes + t) * 4 + i % 4];
              sum += (code - double{in.zeros.data()[t]}) * double{in.Row(r, i)};
              magnitude += (code + double{in.zeros.data()[t]}) * std::abs(double{in.Row(r, i)});
            }
            const double scale =
                double{in.up_scales.data()[r]} * (scaled ? double{in.scales.data()[t]} : 1.0);
            const double start = !scaled ? 0 : started ? double{in.start.data()[r]} : 99.0;
            ASSERT_NEAR(found[static_cast<size_t>(r * kTileLanes + t)], start + sum * scale,
                        4 * kEps * (std::abs(start) + magnitude * std::abs(scale)));
          }
        }
      }
    }
  }
}

TEST_F(EveryLaneKernel, AddsPairs) {
  const Lanes in(1);
  constexpr int64_t kStride = kTileLanes + 3;
  for (const int64_t rows : {1, 2, 3, 4, 7}) {
    for (const bool add : {false, true}) {
      const auto run = [&](const LaneKernels& kernels) {
        Aligned<float> scores(rows * kStride);
        kernels.add_pairs({.keys = in.keys.data(),
                           .cos = in.cos.data(),
                           .sin = in.sin.data(),
                           .queries = {in.queries.data(), in.queries.data() + 3},
                           .query_stride = 6,
                           .rows = rows,
                           .scores = scores.data(),
                           .score_stride = kStride,
                           .add = add});
        return scores.values();
      };
      const std::vector<float> found = run(best);
      EXPECT_EQ(found, run(plain));
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t t = 0; t < kStride; ++t) {
          double score = add || t >= kTileLanes ? 99 : 0;
          for (int64_t i = 0; i < 2 && t < kTileLanes; ++i) {
            const int64_t at = i * kTileLanes + t;
            const double c = double{in.cos.data()[at]}, s = double{in.sin.data()[at]};
            const double x = double{in.keys.data()[at + i * kTileLanes]};
            const double y = double{in.keys.data()[at + (i + 1) * kTileLanes]};
            score += double{in.queries.data()[6 * r + i]} * (x * c - y * s) +
                     double{in.queries.data()[6 * r + 3 + i]} * (y * c + x * s);
          }
          ASSERT_NEAR(found[static_cast<size_t>(r * kStride + t)], score, 8 * kEps * (99 + 8));
        }
      }
    }
  }
}

TEST_F(EveryLaneKernel, AddsWaves) {
  const Lanes in(1);
  constexpr int64_t kWaves = kTileLanes + 9;
  const std::vector<float> waves = RandomFloats(6 * kWaves, 8);
  for (const int64_t terms : {1, 2, 3, 6}) {
    for (const int64_t first : {0, 4}) {
      for (const bool scaled : {false, true}) {
        const auto run = [&](const LaneKernels& kernels) {
          Aligned<float> scores(8 * kTileLanes);
          kernels.add_waves({.keys = in.keys.data(),
                             .first = first,
                             .count = 3,
                             .terms = terms,
                             .waves = waves.data(),
                             .wave_stride = kWaves,
                             .scores = scores.data(),
                             .score_stride = kTileLanes,
                             .scales = scaled ? in.scales.data() : nullptr});
          return scores.values();
        };
        const std::vector<float> found = run(best);
        EXPECT_EQ(found, run(plain));
        std::vector<double> expected(found.size(), 99.0);
        for (int64_t i = first; i < first + 3; ++i) {
          for (int64_t t = 0; t < kTileLanes; ++t) {
            double& score = expected[static_cast<size_t>(i / terms * kTileLanes + t)];
            score += double{waves[static_cast<size_t>(i % terms * kWaves + t)]} *
                     double{in.keys.data()[(i - first) * kTileLanes + t]};
            if (scaled && i % terms == terms - 1) score *= double{in.scales.data()[t]};
          }
        }
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_NEAR(found[i], expected[i], 8 * kEps * (99 + 16));
        }
      }
    }
  }
}

TEST_F(EveryLaneKernel, SplitsWeights) {
  const Lanes in(1);
  Aligned<float> halves(kTileLanes);
  for (int64_t t = 0; t < kTileLanes; ++t) halves.data()[t] = 7.5f;
  const std::vector<float> p = RandomFloats(2 * kTileLanes, 9);
  for (const int64_t tokens : {1, 16, 37, 64}) {
    for (const bool both : {false, true}) {
      for (const float* zeros : {in.zeros.data(), halves.data()}) {
        const auto run = [&](const LaneKernels& kernels, cpu::PlaneSums* sums) {
          Aligned<int8_t> planes(kRowGroup * kTileLanes);
          kernels.split_weights({.p = {p.data(), both ? p.data() + tokens : nullptr},
                                 .scales = in.scales.data(),
                                 .zeros = zeros,
                                 .tokens = tokens,
                                 .planes = planes.data()},
                                sums);
          return planes.values();
        };
        cpu::PlaneSums sums[2], expected[2];
        const std::vector<int8_t> planes = run(best, sums);
        EXPECT_EQ(planes, run(plain, expected));
        for (int64_t k = 0; k < 2; ++k) {
          EXPECT_EQ(sums[k].scale, expected[k].scale);
          EXPECT_EQ(sums[k].high, expected[k].high);
          EXPECT_EQ(sums[k].low, expected[k].low);
          float high_sum = 0, low_sum = 0;  // of halves, exact
          for (int64_t t = 0; t < kTileLanes; ++t) {
            const auto at = static_cast<size_t>(t / 4 * 16 + 8 * k + t % 4);
            const float high = planes[at], low = planes[at + 4];
            high_sum += high * zeros[t];
            low_sum += low * zeros[t];
            const double weight =
                t < tokens && (k == 0 || both)
                    ? double{p[static_cast<size_t>(k * tokens + t)]} * double{in.scales.data()[t]}
                    : 0;
            ASSERT_NEAR((256.0 * double{high} + double{low}) * double{sums[k].scale}, weight,
                        (0.5 + 4 * 32639 * kEps) * double{sums[k].scale});
          }
          EXPECT_EQ(sums[k].high, high_sum);
          EXPECT_EQ(sums[k].low, low_sum);
        }
      }
    }
  }
}

TEST_F(EveryLaneKernel, AddsValues) {
  const int64_t stride = 5 * 64;
  const Aligned<uint8_t> lanes(16 * stride);
  const Aligned<int8_t> planes(kRowGroup * kTileLanes);
  FillRandom(rng, lanes.data(), lanes.buffer.size(), 0, 256);
  FillRandom(rng, planes.data(), planes.buffer.size(), -128, 256);
  const cpu::PlaneSums sums[2] = {{0.25f, 1000.5f, -300}, {0.5f, -77, 12.5f}};
  for (const int64_t count : {1, 16, 17, 40, 63, 64}) {
    for (const bool both : {false, true}) {
      const auto run = [&](const LaneKernels& kernels) {
        Aligned<float> acc(2 * kTileLanes);
        kernels.add_values({.lanes = lanes.data(),
                            .stride = stride,
                            .planes = planes.data(),
                            .sums = sums,
                            .count = count,
                            .acc = {acc.data(), both ? acc.data() + kTileLanes : nullptr}});
        return acc.values();
      };
      const std::vector<float> found = run(best);
      EXPECT_EQ(found, run(plain));
      for (int64_t k = 0; k < 2; ++k) {
        for (int64_t i = 0; i < kTileLanes; ++i) {
          double sum = 0, magnitude = 100;
          for (int64_t t = 0; t < kTileLanes && i < count && (k == 0 || both); ++t) {
            const int8_t* entry = planes.data() + t / 4 * 16 + 8 * k + t % 4;
            const double code = lanes.data()[t / 4 * stride + 4 * i + t % 4];
            sum += (256.0 * entry[0] + entry[4]) * code;
            magnitude += std::abs(256.0 * entry[0] + entry[4]) * code;
          }
          if (magnitude > 100) {
            sum -= 256 * double{sums[k].high} + double{sums[k].low};
          }
          ASSERT_NEAR(found[static_cast<size_t>(k * kTileLanes + i)],
                      99 + double{sums[k].scale} * sum, 6 * kEps * magnitude);
        }
      }
    }
  }
}

// Weights keep 15 bits of a row's largest: with the reading of codes exact, a sum moves by at most
// that over all tokens, and by rounding of one product per block.
TEST(LaneValues, AgreeWithFloat64) {
  for (const LatentQuantization& quantization :
       {LatentQuantization{.bits = 4}, LatentQuantization{.bits = 3, .symmetric = true},
        LatentQuantization{.bits = 2, .mid_rise = true},
        LatentQuantization{.bits = 8, .mid_rise = true}}) {
    for (const int64_t width : {8, 64, 72, 128, 200}) {
      for (const int64_t tokens : {1, 3, 64}) {
        for (const int64_t rows : {1, 2, 5}) {
          SCOPED_TRACE(::testing::Message()
                       << quantization.bits << " bits, " << width << " " << tokens << " " << rows);
          Rng rng(7);
          const PackedCodes codes(quantization.bits, width, rng);
          std::vector<Half> scales(kTileLanes);
          std::vector<uint8_t> zeros(kTileLanes), scale_codes(kTileLanes);
          for (Half& scale : scales) {
            scale = ToHalf(0.01f + 2 * static_cast<float>(rng.Below(1000)) / 1000);
          }
          FillRandom(rng, zeros.data(), kTileLanes, 0, 16);
          FillRandom(rng, scale_codes.data(), kTileLanes, 140, 40);
          PackedRows packed{.codes = const_cast<uint8_t*>(codes.packed.data()),
                            .scales = scales.data(),
                            .zeros = quantization.symmetric ? nullptr : zeros.data(),
                            .width = width,
                            .scale_codes = scale_codes.data()};
          Matrix<float> p(rows, tokens), acc(rows, width + kGuard);
          rng.FillUniform({p.data(), static_cast<size_t>(p.size())}, 0.0f, 1.0f);
          acc.Fill(0.5f);
          LaneScratch scratch;
          const bool has_kernel = cpu::BestLaneKernels() != nullptr;
          ASSERT_EQ(cpu::AccumulateCodesInLanes(p, quantization, packed, scratch,
                                                acc.View().ColRange(0, width)),
                    has_kernel);
          if (!has_kernel) continue;
          const auto scale_zero = [&](int64_t t) { return ScaleOf(quantization, packed, t, 0); };
          for (int64_t g = 0; g < rows; ++g) {
            double largest = 0;
            for (int64_t t = 0; t < tokens; ++t) {
              largest = std::max(largest, double{p(g, t)} * double{scale_zero(t).scale});
            }
            for (int64_t r = 0; r < width; ++r) {
              double sum = 0.5, magnitude = 0.5, bound = 0;
              for (int64_t t = 0; t < tokens; ++t) {
                const double code = codes.At(t, r) - double{scale_zero(t).zero};
                const double weight = double{p(g, t)} * double{scale_zero(t).scale};
                sum += weight * code;
                magnitude += weight * (std::abs(code) + 2 * double{scale_zero(t).zero});
                bound += largest / 65278 * std::abs(code);
              }
              ASSERT_NEAR(acc(g, r), sum, bound + 6 * kEps * magnitude);
            }
            for (int64_t i = 0; i < kGuard; ++i) ASSERT_EQ(acc(g, width + i), 0.5f);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace palu::testing
