#include "runtime/cuda/device_weights.h"

#include "testing.h"

namespace palu {
namespace {

// Needs no device: it is told before anything is copied.
TEST(CudaDeviceWeights, MoreTiersThanKernelsTakeAreRefused) {
  CachedPages pages;
  pages.latent = pages.tiered = true;
  CachedPages::Page& page = pages.pages.emplace_back();
  for (const int bits : {8, 4, 3, 2, 2}) {
    page.tiers.push_back({0, 16, page.width, LatentTier{16, bits}.quantization()});
    page.width += 16;
  }
  EXPECT_EQ(testing::ErrorOf([&] { cuda::UploadPages(pages, nullptr); }),
            "on a GPU: expected at most 4 tiers of bits in a latent, found 5");
}

}  // namespace
}  // namespace palu
