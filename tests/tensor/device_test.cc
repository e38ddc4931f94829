#include "tensor/device.h"

#include "testing.h"

namespace palu {
namespace {

TEST(Device, SaysWhenTheBuildHasNoCuda) {
  if (HasCudaBackend()) {
    EXPECT_NO_THROW(CudaDevices());
  } else {
    EXPECT_EQ(testing::ErrorOf([] { CudaDevices(); }),
              "this build has no CUDA backend: configure it with cmake --preset cuda");
  }
}

}  // namespace
}  // namespace palu
