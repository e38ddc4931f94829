// Row kernels of the device against the CPU's ops, and the quantiser bit for bit.
#include "ops/cuda/row_ops.h"

#include <cmath>
#include <numbers>

#include "cuda_testing.h"
#include "ops/latent_quantization.h"
#include "ops/log_softmax.h"
#include "ops/paged_kv.h"
#include "ops/reference/reference.h"
#include "ops/rope.h"
#include "runtime/cuda/device_weights.h"
#include "testing.h"

namespace palu::testing {
namespace {

using cuda::MakeMatrix;

// Blocks of the same bytes on both sides, and their tables.
struct Blocks {
  std::vector<std::byte> host;
  cuda::DeviceBuffer<std::byte> device;
  std::vector<std::byte*> table, device_table;

  Blocks(int64_t count, int64_t bytes)
      : host(static_cast<size_t>(count * bytes), std::byte{0xAB}), device(ToDevice(host)) {
    for (int64_t b = 0; b < count; ++b) {
      table.push_back(host.data() + b * bytes);
      device_table.push_back(device.data() + b * bytes);
    }
  }
};

TEST(CudaRowOps, RmsNormMatchesTheReference) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : kStored) {
    for (const int64_t d : {8, 60, 512, 4096, 10000}) {
      const RandomTensor weight(DType::kF32, {d}, 1);
      const auto x = RandomFloats(3 * d, 2);
      const auto dx = ToDevice(x);
      const auto dw = ToDevice(Loaded(weight.bytes, DType::kF32));
      const auto out = Poison(3 * d * static_cast<int64_t>(SizeOf(dtype)));
      cuda::RmsNorm(MakeMatrix(dx.data(), DType::kF32, 3, d), dw.data(), 1e-5f,
                    MakeMatrix(out.data(), dtype, 3, d), nullptr);
      const auto y = Loaded(ToHost(out), dtype);
      std::vector<double> expected(static_cast<size_t>(d));
      for (int64_t i = 0; i < 3; ++i) {
        reference::RmsNorm(std::span(x).subspan(static_cast<size_t>(i * d), static_cast<size_t>(d)),
                           weight.view, 1e-5, expected);
        for (int64_t c = 0; c < d; ++c) {
          const double e = expected[static_cast<size_t>(c)];
          // d + 1 roundings in the sum, halved by the root, four more after it, and the last one.
          const double bound =
              ((static_cast<double>(d + 1) / 2 + 4) * kEps + UnitRoundoff(dtype)) * std::fabs(e) +
              (dtype == DType::kF16 ? 0x1p-25 : 0);  // below its smallest normal number
          ASSERT_NEAR(y[static_cast<size_t>(i * d + c)], e, bound);
        }
      }
    }
  }
}

TEST(CudaRowOps, HeadsAreNormalisedAndRotated) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const int64_t d : {16, 64, 128, 256}) {
    // Queries in place; keys, behind a gap, on their way into a page per head.
    const int64_t heads = 3, keys = 2, gap = 5, n = 4;
    const int64_t width = (heads + keys) * d + gap, page_bytes = 64 * d * 4;
    const std::vector<int32_t> positions = {0, 1, 5000, 1000000};
    const std::vector<double> frequencies = InverseFrequencies({}, d);
    std::vector<double> turns;
    for (const double f : frequencies) turns.push_back(f / (2 * std::numbers::pi));
    const auto x = RandomFloats(n * width, 3);
    const auto norm = RandomFloats(d, 4);
    const auto dx = ToDevice(x), dnorm = ToDevice(norm);
    const auto dpositions = ToDevice(positions);
    const auto dturns = ToDevice(turns);
    cuda::RopeView rope;
    rope.turns = dturns.data();
    const auto pages = ToDevice(std::vector<cuda::PageView>{
        {0, static_cast<int32_t>(d), nullptr, nullptr, 0},
        {page_bytes, static_cast<int32_t>(d), nullptr, nullptr, static_cast<int32_t>(d)}});
    const auto block = Poison(keys * page_bytes);
    const auto table = ToDevice(std::vector<std::byte*>{block.data()});
    const auto sequence = ToDevice(std::vector<int32_t>(4, 0));
    const auto index = ToDevice(std::vector<int32_t>{10, 11, 12, 63});
    const auto fault = ToDevice(std::vector<int32_t>{0});
    cuda::StoreView stored;
    stored.projection.pages = pages.data();
    stored.projection.page_count = static_cast<int32_t>(keys);
    stored.projection.max_width = static_cast<int32_t>(d);
    stored.projection.dtype = DType::kF32;
    stored.column = heads * d + gap;
    cuda::RotateView rotate;
    rotate.rope = rope;
    rotate.head_dim = static_cast<int32_t>(d);
    rotate.norm_eps = 1e-6f;
    rotate.query_heads = static_cast<int32_t>(heads);
    rotate.query_norm = dnorm.data();
    rotate.keys = true;
    cuda::StoreRows(rotate, stored, {}, {table.data(), 1},
                    {sequence.data(), index.data(), dpositions.data(), n},
                    MakeMatrix(dx.data(), DType::kF32, n, width), 0, fault.data(), nullptr);
    const auto page_rows = Loaded(ToHost(block), DType::kF32);
    const std::vector<int64_t> rows = {10, 11, 12, 63};
    const auto y = ToHost(dx);
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t h = 0; h < heads + keys; ++h) {
        const bool query = h < heads;
        const int64_t at = t * width + h * d + (query ? 0 : gap);
        const auto value = [&](int64_t i) { return double{x[static_cast<size_t>(at + i)]}; };
        double squares = 0, scale = 1;
        for (int64_t i = 0; i < d; ++i) squares += value(i) * value(i);
        if (query) scale = 1 / std::sqrt(squares / static_cast<double>(d) + 1e-6);
        const auto normed = [&](int64_t i) {
          return query ? value(i) * scale * norm[static_cast<size_t>(i)] : value(i);
        };
        for (int64_t i = 0; i < d / 2; ++i) {
          const double angle =
              positions[static_cast<size_t>(t)] * frequencies[static_cast<size_t>(i)];
          const double a = normed(i), b = normed(i + d / 2);
          // Relative error (d / 2 + 6) eps of the norm, cosines and sines good to 4 eps.
          const double bound =
              (static_cast<double>(d) / 2 + 12) * kEps * (std::fabs(a) + std::fabs(b));
          const int64_t in_page =
              (h - heads) * 64 * d + rows[static_cast<size_t>(t)] * d;  // of a key
          const auto actual = [&](int64_t column) {
            return query ? y[static_cast<size_t>(at + column)]
                         : page_rows[static_cast<size_t>(in_page + column)];
          };
          ASSERT_NEAR(actual(i), a * std::cos(angle) - b * std::sin(angle), bound);
          ASSERT_NEAR(actual(i + d / 2), b * std::cos(angle) + a * std::sin(angle), bound);
        }
      }
      for (int64_t i = 0; i < gap + keys * d; ++i) {  // behind the queries nothing is touched
        const auto at = static_cast<size_t>(t * width + heads * d + i);
        EXPECT_EQ(y[at], x[at]);
      }
    }
  }
}

TEST(CudaRowOps, SwiGluGatherSelectAndConvert) {
  PALU_SKIP_WITHOUT_DEVICE();
  const int64_t n = 3, d = 300;
  const auto x = RandomFloats(n * 2 * d, 5, 4.0f);
  const auto dx = ToDevice(x);
  for (const DType dtype : kStored) {
    const auto size = static_cast<int64_t>(SizeOf(dtype));
    const auto out = Poison(n * d * size);
    cuda::SwiGlu(MakeMatrix(dx.data(), DType::kF32, n, 2 * d), MakeMatrix(out.data(), dtype, n, d),
                 0.5f, nullptr);
    const auto y = Loaded(ToHost(out), dtype);
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t i = 0; i < d; ++i) {
        const double gate = x[static_cast<size_t>(t * 2 * d + i)];
        const double up = x[static_cast<size_t>(t * 2 * d + d + i)];
        const double e = 0.5 * gate / (1 + std::exp(-gate)) * up;
        ASSERT_NEAR(y[static_cast<size_t>(t * d + i)], e,
                    (8 * kEps + UnitRoundoff(dtype)) * std::fabs(e) +
                        (dtype == DType::kF16 ? 0x1p-25 : 0));  // below its smallest normal number
      }
    }
    // Rows of a table, converted both ways.
    const auto table = Stored(RandomFloats(7 * d, 6), dtype);
    const auto dtable = ToDevice(table);
    const std::vector<int32_t> ids = {6, 0, 3};
    const auto dids = ToDevice(ids);
    cuda::DeviceBuffer<float> rows(n * d);
    cuda::GatherRows(MakeMatrix(dtable.data(), dtype, 7, d), dids.data(),
                     MakeMatrix(rows.data(), DType::kF32, n, d), nullptr);
    const auto selected = Poison(n * d * size), converted = Poison(n * d * size);
    cuda::SelectRows(MakeMatrix(dtable.data(), dtype, 7, d), dids.data(),
                     MakeMatrix(selected.data(), dtype, n, d), nullptr);
    cuda::ConvertRows(MakeMatrix(rows.data(), DType::kF32, n, d),
                      MakeMatrix(converted.data(), dtype, n, d), nullptr);
    EXPECT_EQ(ToHost(selected), ToHost(converted));
    const auto gathered = ToHost(rows), all = Loaded(table, dtype);
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int64_t i = 0; i < d; ++i) {
        ASSERT_EQ(gathered[t * static_cast<size_t>(d) + static_cast<size_t>(i)],
                  all[static_cast<size_t>(ids[t] * d + i)]);
      }
    }
  }
}

TEST(CudaRowOps, LogProbsMatchTheCpu) {
  PALU_SKIP_WITHOUT_DEVICE();
  const int64_t n = 4, vocab = 5001;
  auto logits = RandomFloats(n * vocab, 7, 5.0f);
  logits[vocab + 17] = logits[vocab + 4000] = 100;  // the first of ties
  const std::vector<int32_t> targets = {0, 17, 5000, -1};
  const auto dlogits = ToDevice(logits);
  const auto dtargets = ToDevice(targets);
  cuda::DeviceBuffer<double> logprobs(n);
  cuda::DeviceBuffer<int32_t> argmax(n);
  cuda::LogProbs(MakeMatrix(dlogits.data(), DType::kF32, n, vocab), dtargets.data(),
                 logprobs.data(), argmax.data(), nullptr);
  const auto got = ToHost(logprobs);
  const auto best = ToHost(argmax);
  for (int64_t i = 0; i < n; ++i) {
    const auto row = std::span(logits).subspan(static_cast<size_t>(i * vocab), vocab);
    const int32_t target = targets[static_cast<size_t>(i)];
    EXPECT_EQ(best[static_cast<size_t>(i)], ArgMax(row));
    // Both promise 4 eps of the largest logit.
    EXPECT_NEAR(got[static_cast<size_t>(i)], target < 0 ? 0 : LogProb(row, target), 8 * kEps * 100);
  }
}

// A layer's pages, their blocks on both sides, and rows that go into them.
void ExpectSameBlocks(const LatentQuantization& quantization, DType dtype,
                      const std::vector<float>& values) {
  CachedPages pages;
  pages.latent = true;
  pages.dtype = dtype;
  pages.quantization = quantization;
  int64_t block_bytes = 0, width = 0;
  for (const int64_t w : {64, 24, 160}) {
    pages.pages.push_back({block_bytes, w});
    const int64_t bytes =
        quantization.enabled() ? quantization.bytes(w) : w * static_cast<int64_t>(SizeOf(dtype));
    block_bytes += (kBlockTokens * bytes + 63) / 64 * 64;
    width += w;
  }
  const int64_t n = 70, first = 60, blocks = 3, column = 7, stride = width + column + 3;
  std::vector<float> x(static_cast<size_t>(n * stride));
  for (size_t i = 0; i < x.size(); ++i) x[i] = values[i % values.size()];

  Blocks made(blocks, block_bytes);
  auto& [host, device, table, device_table] = made;
  for (int64_t t = 0; t < n; ++t) {
    const float* row = x.data() + t * stride + column;
    for (const auto& page : pages.pages) {
      const BlockTable where{table.data()};
      if (quantization.enabled()) {
        ASSERT_TRUE(QuantizeRow(quantization, row, where.Packed(pages, page, first + t)));
      } else {
        FromFloat(row, page.width, dtype, where.Row(pages, page, first + t));
      }
      row += page.width;
    }
  }

  std::vector<cuda::PageView> views;
  for (const auto& page : pages.pages) {
    cuda::PageView& view = views.emplace_back();
    view.offset = page.offset;
    view.width = static_cast<int32_t>(page.width);
    view.column = views.size() == 2 ? 64 : 0;  // the third is the values' first
  }
  const auto dviews = ToDevice(views);
  cuda::StoreView keys;
  keys.projection.pages = dviews.data();
  keys.projection.page_count = 2;  // the third page comes as the values'
  keys.projection.max_width = 160;
  keys.projection.latent = true;
  keys.projection.bits = quantization.bits;
  keys.projection.run = static_cast<int32_t>(quantization.group);
  keys.projection.symmetric = quantization.symmetric;
  keys.projection.dtype = dtype;
  keys.column = column;
  keys.clip_ratio = static_cast<float>(quantization.clip_ratio);
  cuda::StoreView last = keys;
  last.projection.pages = dviews.data() + 2;
  last.projection.page_count = 1;
  last.column = column + 64 + 24;
  std::vector<int32_t> sequence(static_cast<size_t>(n), 0), index;
  for (int32_t t = 0; t < n; ++t) index.push_back(static_cast<int32_t>(first) + t);
  const auto dsequence = ToDevice(sequence), dindex = ToDevice(index);
  const auto dtable = ToDevice(device_table);
  const auto dx = ToDevice(x);
  const auto fault = ToDevice(std::vector<int32_t>{0});
  cuda::StoreRows({}, keys, last, {dtable.data(), static_cast<int32_t>(blocks)},
                  {dsequence.data(), dindex.data(), nullptr, n},
                  MakeMatrix(dx.data(), DType::kF32, n, stride), 3, fault.data(), nullptr);
  EXPECT_EQ(ToHost(fault)[0], 0);
  EXPECT_EQ(ToHost(device), host);
}

TEST(CudaStoreRows, BlocksAreTheCpusBitForBit) {
  PALU_SKIP_WITHOUT_DEVICE();
  std::vector<std::vector<float>> inputs = {
      RandomFloats(9973, 8), std::vector<float>(11, 0.0f), std::vector<float>(13, -3.25f),
      RandomFloats(9973, 9, 1e-7f), RandomFloats(9973, 10, 1e6f)};
  for (const auto& values : inputs) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const bool symmetric : {false, true}) {
        for (const int64_t group : {0, 8, 32}) {
          SCOPED_TRACE(std::to_string(bits) + " bits in runs of " + std::to_string(group));
          ExpectSameBlocks({bits, group, symmetric, 1}, DType::kF16, values);
          ExpectSameBlocks({bits, group, symmetric, 0.9}, DType::kF16, values);
        }
      }
    }
    for (const DType dtype : kStored) ExpectSameBlocks({}, dtype, values);
  }
}

// Two pages of keys and one of values, each in tiers of its own.
TEST(CudaStoreRows, TiersAreTheCpusBitForBit) {
  PALU_SKIP_WITHOUT_DEVICE();
  const std::vector<std::vector<LatentTier>> tiers = {
      {{16, 8}, {48, 4}, {16, 3}, {96, 2}}, {{16, 2}}, {{160, 8}, {32, 3}, {48, 2}}};
  CachedPages keys, values;
  keys.latent = values.latent = keys.tiered = values.tiered = true;
  int64_t block_bytes = 0;
  for (const auto& list : tiers) {
    CachedPages::Page page{block_bytes, 0, {}};
    for (const LatentTier& tier : list) {
      page.tiers.push_back({block_bytes, tier.width, page.width, tier.quantization()});
      page.width += tier.width;
      block_bytes += kBlockTokens * tier.quantization().bytes(tier.width);
    }
    (&list == &tiers.back() ? values : keys).pages.push_back(page);
  }
  const int64_t n = 70, first = 60, blocks = 3, column = 7;
  const int64_t stride = column + keys.width() + values.width() + 3;
  std::vector<float> outliers = RandomFloats(9973, 11);
  for (size_t i = 0; i < outliers.size(); i += 97) outliers[i] *= 40;
  for (const auto& latents :
       {RandomFloats(9973, 8), std::vector<float>(11, 0.0f), std::vector<float>(13, -3.25f),
        RandomFloats(9973, 9, 1e-7f), RandomFloats(9973, 10, 1e6f), outliers}) {
    std::vector<float> x(static_cast<size_t>(n * stride));
    for (size_t i = 0; i < x.size(); ++i) x[i] = latents[i % latents.size()];
    Blocks made(blocks, block_bytes);
    auto& [host, device, table, device_table] = made;
    std::vector<int32_t> sequence, index;
    for (int64_t t = 0; t < n; ++t) {
      sequence.push_back(0);
      index.push_back(static_cast<int32_t>(first + t));
      const float* row = x.data() + t * stride + column;
      for (const CachedPages* pages : {&keys, &values}) {
        for (const CachedPages::Page& page : pages->pages) {
          pages->ForTiers(page, [&](const PageTier& tier) {
            ASSERT_TRUE(QuantizeRow(tier.quantization, row + tier.column,
                                    BlockTable{table.data()}.Packed(tier, first + t)));
          });
          row += page.width;
        }
      }
    }
    const cuda::DevicePages k = cuda::UploadPages(keys, nullptr);
    const cuda::DevicePages v = cuda::UploadPages(values, nullptr);
    const auto dsequence = ToDevice(sequence), dindex = ToDevice(index);
    const auto dtable = ToDevice(device_table);
    const auto dx = ToDevice(x);
    const auto fault = ToDevice(std::vector<int32_t>{0});
    cuda::StoreRows({}, {k.view, column}, {v.view, column + keys.width()},
                    {dtable.data(), static_cast<int32_t>(blocks)},
                    {dsequence.data(), dindex.data(), nullptr, n},
                    MakeMatrix(dx.data(), DType::kF32, n, stride), 3, fault.data(), nullptr);
    EXPECT_EQ(ToHost(fault)[0], 0);
    EXPECT_EQ(ToHost(device), host);
  }
}

// Two sequences: one longer than the window, of which a step's tokens wrap the ring around, and a
// short one. Latents meant for a prompt are gathered from the same ring before.
TEST(CudaStoreRows, WindowsHoldTheLastTokensAsFp16) {
  PALU_SKIP_WITHOUT_DEVICE();
  constexpr int64_t kRecent = 16, kWidths[] = {48, 32};
  constexpr int64_t kWidth = 80, kStride = kWidth + 9, kColumn = 5;
  CachedPages pages;
  pages.latent = pages.tiered = true;
  int64_t block_bytes = 0, window_elements = 0;
  for (const int64_t width : kWidths) {
    CachedPages::Page page{block_bytes, width, {}, window_elements * 2};
    for (int64_t column = 0; column < width; column += 16) {
      const LatentTier tier{16, column == 0 ? 4 : 2};
      page.tiers.push_back({block_bytes, tier.width, column, tier.quantization()});
      block_bytes += kBlockTokens * tier.quantization().bytes(tier.width);
    }
    window_elements += kRecent * width;
    pages.pages.push_back(page);
  }
  const cuda::DevicePages device_pages = cuda::UploadPages(pages, nullptr);
  const std::vector<int64_t> starts = {100, 0}, counts = {23, 7};
  const int64_t n = 30;
  const std::vector<float> x = RandomFloats(n * kStride, 5);
  std::vector<int32_t> sequence, index, lengths;
  for (size_t s = 0; s < starts.size(); ++s) {
    for (int64_t i = 0; i < counts[s]; ++i) {
      sequence.push_back(static_cast<int32_t>(s));
      index.push_back(static_cast<int32_t>(starts[s] + i));
    }
    lengths.push_back(static_cast<int32_t>(starts[s] + counts[s]));
  }
  std::vector<cuda::DeviceBuffer<std::byte>> memory;
  std::vector<std::byte*> table, windows;
  const std::vector<float> before = RandomFloats(window_elements, 6);
  for (size_t s = 0; s < starts.size(); ++s) {
    for (int b = 0; b < 2; ++b) table.push_back(memory.emplace_back(Poison(block_bytes)).data());
    windows.push_back(memory.emplace_back(ToDevice(Stored(before, DType::kF16))).data());
  }
  const auto dtable = ToDevice(table), dwindows = ToDevice(windows);
  const auto dsequence = ToDevice(sequence), dindex = ToDevice(index), dlengths = ToDevice(lengths);
  const auto dx = ToDevice(x);
  const auto fault = ToDevice(std::vector<int32_t>{0});
  const cuda::StoreView store{device_pages.view, kColumn};
  const cuda::SequencesView sequences{dtable.data(), 2, dlengths.data(),
                                      nullptr,       2, {dwindows.data(), nullptr, kRecent}};
  const cuda::DeviceMatrix rows = MakeMatrix(dx.data(), DType::kF32, n, kStride);

  // The element of a page's ring that belongs to a token.
  const auto ring = [&](const CachedPages::Page& page, int64_t token, int64_t i) {
    return static_cast<size_t>(page.window_offset / 2 + token % kRecent * page.width + i);
  };
  const std::vector<float> halves = Loaded(Stored(x, DType::kF16), DType::kF16);
  const auto kept = Loaded(Stored(before, DType::kF16), DType::kF16);
  for (const DType type : {DType::kF16, DType::kF32}) {
    constexpr int64_t kFirst = 64, kBegin = 90;
    const int64_t count = 123 - kFirst;
    const auto out = Poison(count * kWidth * static_cast<int64_t>(SizeOf(type)));
    cuda::GatherRecent(store, sequences, kFirst, kBegin, 100, rows.RowRange(0, 23),
                       MakeMatrix(out.data(), type, count, kWidth), nullptr);
    const std::vector<float> gathered = Loaded(ToHost(out), type);
    for (int64_t token = kFirst; token < 123; ++token) {
      int64_t column = 0;
      for (const CachedPages::Page& page : pages.pages) {
        for (int64_t i = 0; i < page.width; ++i, ++column) {
          const float expected =
              token < kBegin ? 0
              : token < 100
                  ? kept[ring(page, token, i)]
                  : halves[static_cast<size_t>((token - 100) * kStride + kColumn + column)];
          ASSERT_EQ(gathered[static_cast<size_t>((token - kFirst) * kWidth + column)], expected)
              << "token " << token << " column " << column;
        }
      }
    }
  }

  cuda::StoreRows({}, store, {}, sequences, {dsequence.data(), dindex.data(), nullptr, n}, rows, 0,
                  fault.data(), nullptr);
  EXPECT_EQ(ToHost(fault)[0], 0);
  int64_t first_row = 0;
  for (size_t s = 0; s < starts.size(); first_row += counts[s++]) {
    std::vector<float> expected = kept;
    for (int64_t i = 0; i < counts[s]; ++i) {
      int64_t column = 0;
      for (const CachedPages::Page& page : pages.pages) {
        for (int64_t c = 0; c < page.width; ++c, ++column) {
          expected[ring(page, starts[s] + i, c)] =
              halves[static_cast<size_t>((first_row + i) * kStride + kColumn + column)];
        }
      }
    }
    EXPECT_EQ(Loaded(ToHost(memory[3 * s + 2]), DType::kF16), expected) << "sequence " << s;
  }
}

TEST(CudaStoreRows, ReportsTheLayerOfALatentThatIsNotFinite) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const auto& [bad, bits] :
       {std::pair{NAN, 4}, {INFINITY, 4}, {NAN, cuda::kTiers}, {INFINITY, cuda::kTiers}}) {
    std::vector<float> x(32, 1.0f);
    x[9] = bad;
    const auto dx = ToDevice(x);
    cuda::PageView view{0, 32, nullptr};
    view.tier_count = 1;
    view.tiers[0] = {0, 32, 0, 4};
    const auto page = ToDevice(std::vector<cuda::PageView>{view});
    const auto block = Poison(64 * 32);
    const auto table = ToDevice(std::vector<std::byte*>{block.data()});
    const auto zero = ToDevice(std::vector<int32_t>{0}), fault = ToDevice(std::vector<int32_t>{0});
    cuda::StoreView keys;
    keys.projection.pages = page.data();
    keys.projection.page_count = 1;
    keys.projection.max_width = 32;
    keys.projection.latent = true;
    keys.projection.bits = bits;
    cuda::StoreRows({}, keys, {}, {table.data(), 1}, {zero.data(), zero.data(), nullptr, 1},
                    MakeMatrix(dx.data(), DType::kF32, 1, 32), 5, fault.data(), nullptr);
    EXPECT_EQ(ToHost(fault)[0], 6);
  }
}

}  // namespace
}  // namespace palu::testing
