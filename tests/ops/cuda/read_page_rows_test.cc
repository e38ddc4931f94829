#include <algorithm>

#include "ops/cuda/attention.h"
#include "ops/cuda/cuda_testing.h"
#include "ops/latent_quantization.h"
#include "ops/paged_kv.h"
#include "runtime/cuda/device_weights.h"

namespace palu::cuda {
namespace {

using testing::Loaded;
using testing::Poison;
using testing::Stored;
using testing::ToDevice;
using testing::ToHost;

constexpr int64_t kBlocks = 4;
constexpr int64_t kOffset = 192;  // of the page in its block
constexpr int64_t kRanges[][2] = {{0, 256}, {0, 1},     {1, 5},  {63, 2},
                                  {64, 64}, {100, 156}, {7, 130}};

// Blocks that lie in device memory in another order than the sequence has them.
class Blocks {
 public:
  explicit Blocks(int64_t page_bytes) : bytes_(kOffset + (page_bytes + 63) / 64 * 64) {
    for (auto& block : host_) block.assign(static_cast<size_t>(bytes_), std::byte{0xA5});
    for (int64_t i = 0; i < kBlocks; ++i) table_.push_back(host_[Place(i)].data());
  }
  BlockTable table() const { return {table_.data()}; }

  // Rows as ReadPageRows has them.
  std::vector<float> Read(const ProjectionView& projection, const PageView& page, int64_t begin,
                          int64_t count, DType out_dtype) const {
    std::vector<std::byte> all;
    for (const auto& block : host_) all.insert(all.end(), block.begin(), block.end());
    const auto data = ToDevice(all);
    std::vector<std::byte*> addresses;
    for (int64_t i = 0; i < kBlocks; ++i) {
      addresses.push_back(data.data() + static_cast<int64_t>(Place(i)) * bytes_);
    }
    const auto table = ToDevice(addresses);
    const auto out = Poison(count * page.width * static_cast<int64_t>(SizeOf(out_dtype)));
    ReadPageRows(projection, page, table.data(), begin, count, out_dtype, out.data(), page.width,
                 nullptr);
    return Loaded(ToHost(out), out_dtype);
  }

 private:
  static size_t Place(int64_t block) { return static_cast<size_t>((block * 3 + 1) % kBlocks); }

  int64_t bytes_;
  std::vector<std::byte> host_[kBlocks];
  std::vector<std::byte*> table_;
};

// Rows [begin, begin + count) of `rows`, rounded to the type.
std::vector<float> Expected(const std::vector<float>& rows, int64_t width, int64_t begin,
                            int64_t count, DType dtype) {
  return Loaded(
      Stored({rows.begin() + begin * width, rows.begin() + (begin + count) * width}, dtype), dtype);
}

void ExpectCodes(const LatentQuantization& quantization, int64_t width) {
  CachedPages pages;
  pages.latent = true;
  pages.quantization = quantization;
  const CachedPages::Page page{kOffset, width};
  const Blocks blocks(kBlockTokens * quantization.bytes(width));
  const int64_t tokens = kBlocks * kBlockTokens;
  const std::vector<float> latents = testing::RandomFloats(tokens * width, 1, 3);
  std::vector<float> rows(latents.size());
  for (int64_t t = 0; t < tokens; ++t) {
    const PackedRows packed = blocks.table().Packed(pages, page, t);
    ASSERT_TRUE(QuantizeRow(quantization, latents.data() + t * width, packed));
    DequantizeRows(quantization, packed, 1, rows.data() + t * width);
  }
  ProjectionView projection;
  projection.latent = true;
  projection.bits = quantization.bits;
  projection.run = static_cast<int32_t>(quantization.group);
  projection.symmetric = quantization.symmetric;
  for (const DType dtype : testing::kStored) {
    for (const auto& [begin, count] : kRanges) {
      ASSERT_EQ(
          blocks.Read(projection, {kOffset, static_cast<int32_t>(width)}, begin, count, dtype),
          Expected(rows, width, begin, count, dtype))
          << count << " tokens from " << begin << " as " << Name(dtype);
    }
  }
}

TEST(CudaReadPageRows, CodesAsOnTheCpu) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t run : {0, 8, 32, 64}) {
      for (const bool symmetric : {false, true}) {
        for (const int64_t width : {8, 16, 40, 96, 128, 192, 512}) {
          SCOPED_TRACE(::testing::Message() << bits << " bits, runs of " << run << ", width "
                                            << width << (symmetric ? ", symmetric" : ""));
          ASSERT_NO_FATAL_FAILURE(ExpectCodes({bits, run, symmetric}, width));
        }
      }
    }
  }
}

TEST(CudaReadPageRows, TiersAsOnTheCpu) {
  PALU_SKIP_WITHOUT_DEVICE();
  const std::vector<std::vector<LatentTier>> all = {
      {{16, 8}, {16, 4}, {16, 3}, {16, 2}}, {{16, 3}, {512, 2}}, {{48, 4}, {96, 3}}, {{160, 8}}};
  for (const std::vector<LatentTier>& tiers : all) {
    CachedPages pages;
    pages.latent = pages.tiered = true;
    CachedPages::Page page{kOffset, 0, {}};
    int64_t bytes = 0;
    for (const LatentTier& tier : tiers) {
      page.tiers.push_back({kOffset + bytes, tier.width, page.width, tier.quantization()});
      page.width += tier.width;
      bytes += kBlockTokens * tier.quantization().bytes(tier.width);
    }
    pages.pages.push_back(page);
    const Blocks blocks(bytes);
    const int64_t tokens = kBlocks * kBlockTokens, width = page.width;
    const std::vector<float> latents = testing::RandomFloats(tokens * width, 1, 3);
    std::vector<float> rows(latents.size());
    for (int64_t t = 0; t < tokens; ++t) {
      for (const PageTier& tier : page.tiers) {
        const PackedRows packed = blocks.table().Packed(tier, t);
        const int64_t at = t * width + tier.column;
        ASSERT_TRUE(QuantizeRow(tier.quantization, latents.data() + at, packed));
        DequantizeRows(tier.quantization, packed, 1, rows.data() + at);
      }
    }
    const DevicePages device = UploadPages(pages, nullptr);
    for (const DType dtype : testing::kStored) {
      for (const auto& [begin, count] : kRanges) {
        ASSERT_EQ(blocks.Read(device.view, device.pages[0], begin, count, dtype),
                  Expected(rows, width, begin, count, dtype))
            << count << " tokens from " << begin << " as " << Name(dtype) << ", width " << width;
      }
    }
  }
}

TEST(CudaReadPageRows, ElementsAsTheyAre) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType stored : testing::kStored) {
    for (const int64_t width : {8, 40, 128, 512}) {
      CachedPages pages;
      pages.dtype = stored;
      const CachedPages::Page page{kOffset, width};
      const Blocks blocks(kBlockTokens * width * static_cast<int64_t>(SizeOf(stored)));
      const int64_t tokens = kBlocks * kBlockTokens;
      const std::vector<float> values = testing::RandomFloats(tokens * width, 2);
      std::vector<float> rows(values.size());
      for (int64_t t = 0; t < tokens; ++t) {
        std::byte* row = blocks.table().Row(pages, page, t);
        FromFloat(values.data() + t * width, width, stored, row);
        ToFloat(row, stored, width, rows.data() + t * width);
      }
      ProjectionView projection;
      projection.dtype = stored;
      for (const DType dtype : testing::kStored) {
        for (const auto& [begin, count] : kRanges) {
          ASSERT_EQ(
              blocks.Read(projection, {kOffset, static_cast<int32_t>(width)}, begin, count, dtype),
              Expected(rows, width, begin, count, dtype))
              << Name(stored) << " to " << Name(dtype) << ", width " << width << ", " << count
              << " tokens from " << begin;
        }
      }
    }
  }
}

TEST(CudaReadPageRows, HalfStopsAtItsLargestNumber) {
  PALU_SKIP_WITHOUT_DEVICE();
  CachedPages pages;
  pages.dtype = DType::kF32;
  const Blocks blocks(kBlockTokens * 8 * 4);
  const float values[8] = {1e6f, -1e6f, 65504, 65519, 65520, -70000, INFINITY, 1};
  FromFloat(values, 8, DType::kF32, blocks.table().Row(pages, {kOffset, 8}, 0));
  ProjectionView projection;
  projection.dtype = DType::kF32;
  const std::vector<float> expected = {65504, -65504, 65504, 65504, 65504, -65504, 65504, 1};
  EXPECT_EQ(blocks.Read(projection, {kOffset, 8}, 0, 1, DType::kF16), expected);
}

}  // namespace
}  // namespace palu::cuda
