#include "ops/cuda/half_matrix.h"

#include <cmath>

#include "cuda_testing.h"

namespace palu::testing {
namespace {

using cuda::MakeMatrix;

cuda::HalfError ErrorOf(const std::vector<float>& values) {
  const auto matrix = ToDevice(Stored(values, DType::kBF16));
  const auto sums = ToDevice(std::vector<cuda::HalfError>(1));
  cuda::AddHalfError(MakeMatrix(matrix.data(), DType::kBF16, 1, std::ssize(values)), sums.data(),
                     nullptr);
  return ToHost(sums)[0];
}

TEST(CudaHalfMatrix, ErrorsAndConversionAreTheCpus) {
  PALU_SKIP_WITHOUT_DEVICE();
  // The second set lies among F16's subnormal numbers.
  for (const float scale : {0.05f, 1e-6f}) {
    const auto values = Loaded(Stored(RandomFloats(70000, 1, scale), DType::kBF16), DType::kBF16);
    const auto halves = Loaded(Stored(values, DType::kF16), DType::kF16);
    double squares = 0, errors = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      squares += double{values[i]} * values[i];
      errors += (double{values[i]} - halves[i]) * (double{values[i]} - halves[i]);
    }
    const cuda::HalfError error = ErrorOf(values);
    // Sums of positive doubles in another order.
    EXPECT_NEAR(error.squares, squares, 70000 * 0x1p-53 * squares);
    EXPECT_NEAR(error.error_squares, errors, 70000 * 0x1p-53 * errors);

    const auto matrix = ToDevice(Stored(values, DType::kBF16));
    cuda::ConvertToHalf(MakeMatrix(matrix.data(), DType::kBF16, 70, 1000), nullptr);
    EXPECT_EQ(Loaded(ToHost(matrix), DType::kF16), halves);
  }
  EXPECT_EQ(ErrorOf({0.5f, -0x1p-14f, 65280.0f}).error_squares, 0);  // exact in both
  EXPECT_TRUE(std::isinf(ErrorOf({1.0f, 70000.0f}).error_squares));
}

TEST(CudaHalfMatrix, TheBoundOfGatedRowsIsCauchySchwarz) {
  PALU_SKIP_WITHOUT_DEVICE();
  const int64_t half = 37, k = 200;
  const float r = 14;
  const auto w = Loaded(Stored(RandomFloats(2 * half * k, 1), DType::kBF16), DType::kBF16);
  const auto norm = RandomFloats(k, 2), bias = RandomFloats(2 * half, 3);
  double expected = 0;
  for (int64_t j = 0; j < half; ++j) {
    double bound = 1;
    for (const int64_t row : {j, j + half}) {
      double squares = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double x = double{w[static_cast<size_t>(row * k + i)]} * norm[static_cast<size_t>(i)];
        squares += x * x;
      }
      bound *= std::sqrt(squares) * r + std::fabs(double{bias[static_cast<size_t>(row)]});
    }
    expected = std::max(expected, bound);
  }
  const auto dw = ToDevice(Stored(w, DType::kBF16));
  const auto dnorm = ToDevice(norm), dbias = ToDevice(bias);
  const auto largest = ToDevice(std::vector<float>{0, 0});
  cuda::RaiseGatedBound(MakeMatrix(dw.data(), DType::kBF16, 2 * half, k), dnorm.data(),
                        dbias.data(), r, largest.data(), nullptr);
  cuda::RaiseToLargest(dbias.data(), 2 * half, largest.data() + 1, nullptr);
  const auto got = ToHost(largest);
  // Two factors, each with k + 1 roundings under a root and three more.
  EXPECT_NEAR(got[0], expected, (static_cast<double>(k) + 8) * kEps * expected);
  float most = 0;
  for (const float b : bias) most = std::max(most, std::fabs(b));
  EXPECT_EQ(got[1], most);
}

}  // namespace
}  // namespace palu::testing
