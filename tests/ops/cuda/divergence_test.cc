#include "ops/cuda/divergence.h"

#include <cmath>

#include "ops/cuda/cuda_testing.h"

namespace palu {
namespace {

using testing::RandomFloats;
using testing::ToDevice;
using testing::ToHost;

TEST(CudaDivergence, MatchesTheCpu) {
  PALU_SKIP_WITHOUT_DEVICE();
  const int64_t rows = 4, vocab = 5001, stride = vocab + 3;
  auto p = RandomFloats(rows * stride, 1, 5.0f), q = RandomFloats(rows * stride, 2, 5.0f);
  std::copy_n(p.begin() + stride, vocab, q.begin() + stride);          // row 1: equal ones
  p[2 * stride + 17] = p[2 * stride + 4000] = q[2 * stride + 5] = 90;  // ties, and far apart
  q[3 * stride + 5000] = std::nanf("");
  const std::vector<int32_t> targets = {0, 5000, 17, 4};
  const auto device_p = ToDevice(p), device_q = ToDevice(q);
  const auto device_targets = ToDevice(targets);
  cuda::DeviceBuffer<RowDivergence> results(rows);
  cuda::CompareRows(cuda::DeviceMatrix{device_p.data(), DType::kF32, rows, vocab, stride},
                    cuda::DeviceMatrix{device_q.data(), DType::kF32, rows, vocab, stride},
                    device_targets.data(), results.data(), nullptr);
  const std::vector<RowDivergence> found = ToHost(results);
  for (int64_t r = 0; r < 3; ++r) {
    SCOPED_TRACE(r);
    const auto row = [&](const std::vector<float>& logits) {
      return std::span(logits).subspan(static_cast<size_t>(r * stride), vocab);
    };
    const RowDivergence& actual = found[static_cast<size_t>(r)];
    const RowDivergence expected = CompareRows(row(p), row(q), targets[static_cast<size_t>(r)]);
    // Three sums of n terms in float64 on either side, whose magnitudes are at most the largest
    // difference of two logits relative to their maxima, 190, plus log n.
    const double bound = 2 * 3 * (vocab + 8) * 0x1p-53 * (190 + std::log(vocab));
    EXPECT_NEAR(actual.kl, expected.kl, bound);
    // The CPU promises 4 float epsilons of the largest logit.
    EXPECT_NEAR(actual.p_logprob, expected.p_logprob, 4 * 0x1p-23 * 90);
    EXPECT_NEAR(actual.q_logprob, expected.q_logprob, 4 * 0x1p-23 * 90);
    EXPECT_EQ(actual.p_argmax, expected.p_argmax);
    EXPECT_EQ(actual.q_argmax, expected.q_argmax);
  }
  EXPECT_EQ(found[1].kl, 0);
  EXPECT_EQ(found[2].p_argmax, 17);
  EXPECT_GT(found[2].kl, 80);
  EXPECT_TRUE(std::isnan(found[3].kl));
}

}  // namespace
}  // namespace palu
