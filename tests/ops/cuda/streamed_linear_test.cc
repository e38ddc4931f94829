// Products of few rows, with RMSNorm, SwiGLU and residual sums, against float64.
#include "ops/cuda/streamed_linear.h"

#include <cmath>

#include "cuda_testing.h"

namespace palu::testing {
namespace {

using cuda::MakeMatrix;
using cuda::StreamedOutput;

struct Product {
  Product(DType type, int64_t m, int64_t n, int64_t k, bool with_bias)
      : dtype(type), rows(m), cols(n), inner(k) {
    x = RandomFloats(m * k, 1, 3.0f);
    w = Loaded(Stored(RandomFloats(n * k, 2), dtype), dtype);
    norm = RandomFloats(k, 5);
    if (with_bias) bias = RandomFloats(n, 4);
  }

  int64_t outputs(StreamedOutput output) const {
    return output == StreamedOutput::kSwiGlu ? cols / 2 : cols;
  }

  // y starts as `sum` and rows of x and y have a gap behind them.
  std::vector<float> Run(bool normed, StreamedOutput output, const std::vector<float>& sum) const {
    constexpr int64_t kGap = 8;
    const int64_t n = outputs(output);
    std::vector<float> wide_x, wide_y;
    for (int64_t i = 0; i < rows; ++i) {
      wide_x.insert(wide_x.end(), x.begin() + i * inner, x.begin() + (i + 1) * inner);
      wide_x.resize(wide_x.size() + kGap, std::nanf(""));
      wide_y.insert(wide_y.end(), sum.begin() + i * n, sum.begin() + (i + 1) * n);
      wide_y.resize(wide_y.size() + kGap, -7.0f);
    }
    const auto dx = ToDevice(wide_x), dy = ToDevice(wide_y), dnorm = ToDevice(norm);
    const auto dw = ToDevice(Stored(w, dtype));
    cuda::DeviceBuffer<float> db;
    if (!bias.empty()) db = ToDevice(bias);
    const cuda::RowNorm row_norm{normed ? dnorm.data() : nullptr, kNormEps};
    cuda::StreamedLinear({dx.data(), DType::kF32, rows, inner, inner + kGap}, row_norm,
                         MakeMatrix(dw.data(), dtype, cols, inner), db.data(), output,
                         {dy.data(), DType::kF32, rows, n, n + kGap}, nullptr);
    const auto y = ToHost(dy);
    std::vector<float> result;
    for (int64_t i = 0; i < rows; ++i) {
      const auto row = y.begin() + i * (n + kGap);
      result.insert(result.end(), row, row + n);
      for (int64_t c = 0; c < kGap; ++c) EXPECT_EQ(row[n + c], -7.0f);
    }
    return result;
  }

  struct Sum {
    double value, bound;
  };
  // Output j of row i with what float32 sums may differ by: k roundings of partial sums below
  // sum |x w|, and with a norm k / 2 more in the root and three for its factors.
  Sum Expected(int64_t i, int64_t j, bool normed) const {
    double scale = 1;
    if (normed) {
      double squares = 0;
      for (int64_t c = 0; c < inner; ++c) squares += X(i, c) * X(i, c);
      scale = 1 / std::sqrt(squares / static_cast<double>(inner) + kNormEps);
    }
    double sum = bias.empty() ? 0 : bias[static_cast<size_t>(j)], size = std::fabs(sum);
    for (int64_t c = 0; c < inner; ++c) {
      const double term = X(i, c) * scale * (normed ? norm[static_cast<size_t>(c)] : 1) *
                          w[static_cast<size_t>(j * inner + c)];
      sum += term;
      size += std::fabs(term);
    }
    return {sum, (1.5 * static_cast<double>(inner) + 8) * kEps * size};
  }
  double X(int64_t i, int64_t c) const { return x[static_cast<size_t>(i * inner + c)]; }

  void Expect(bool normed, StreamedOutput output) const {
    const int64_t n = outputs(output);
    const auto before = RandomFloats(rows * n, 3);
    const auto y = Run(normed, output, before);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const auto at = static_cast<size_t>(i * n + j);
        Sum e = Expected(i, j, normed);
        if (output == StreamedOutput::kAdd) {
          e.value += before[at];
          e.bound += kEps * (std::fabs(before[at]) + std::fabs(e.value));
        }
        if (output == StreamedOutput::kSwiGlu) {
          // silu' is below 1.1 and |silu(g)| <= |g|; four roundings of the result.
          const Sum up = Expected(i, j + n, normed);
          const double gate = e.value, silu = gate / (1 + std::exp(-gate));
          e.bound = 1.1 * e.bound * (std::fabs(up.value) + up.bound) + std::fabs(silu) * up.bound +
                    8 * kEps * std::fabs(silu * up.value);
          e.value = silu * up.value;
        }
        ASSERT_NEAR(y[at], e.value, e.bound) << i << " " << j;
      }
    }
  }

  static constexpr float kNormEps = 1e-5f;
  DType dtype;
  int64_t rows, cols, inner;
  std::vector<float> x, w, norm, bias;
};

TEST(CudaStreamedLinear, MatchesFloat64) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const DType dtype : kStored) {
    for (const int64_t m : {1, 2, 3, 4}) {
      for (const bool bias : {false, true}) {
        for (const int64_t k : {8, 200, 2048, 2056}) {  // below, at and above whole turns
          SCOPED_TRACE(std::string(Name(dtype)) + ", " + std::to_string(m) + " rows of " +
                       std::to_string(k));
          const Product product(dtype, m, 38, k, bias);
          product.Expect(false, StreamedOutput::kStore);
          product.Expect(false, StreamedOutput::kAdd);
          product.Expect(true, StreamedOutput::kStore);
          product.Expect(true, StreamedOutput::kSwiGlu);
        }
      }
    }
  }
}

// More units than the grid has warps, so that warps take several.
TEST(CudaStreamedLinear, LongMatricesMatchFloat64AndRepeatBitForBit) {
  PALU_SKIP_WITHOUT_DEVICE();
  const Product product(DType::kBF16, 1, 30002, 264, true);
  for (const StreamedOutput output : {StreamedOutput::kStore, StreamedOutput::kSwiGlu}) {
    product.Expect(true, output);
    const std::vector<float> zeros(static_cast<size_t>(product.outputs(output)), 0.0f);
    EXPECT_EQ(product.Run(true, output, zeros), product.Run(true, output, zeros));
  }
}

// As many columns as shared memory holds, beside a shorter ring than usual.
TEST(CudaStreamedLinear, TheLongestRowsMatchFloat64) {
  PALU_SKIP_WITHOUT_DEVICE();
  int64_t k = 1024;
  while (cuda::MaxStreamedRows(k + 1024) > 0) k += 1024;
  const Product product(DType::kF16, 1, 38, k, true);
  product.Expect(false, StreamedOutput::kAdd);
  product.Expect(true, StreamedOutput::kStore);
  product.Expect(true, StreamedOutput::kSwiGlu);
}

// Each starts before the one before has ended; the last reads what the first wrote.
TEST(CudaStreamedLinear, ChainedProductsWaitForEachOther) {
  PALU_SKIP_WITHOUT_DEVICE();
  const int64_t d = 1024;
  const auto w = ToDevice(Stored(RandomFloats(d * d, 1, 0.05f), DType::kF16));
  const auto first = RandomFloats(d, 2);
  const auto matrix = MakeMatrix(w.data(), DType::kF16, d, d);
  const auto run = [&](bool synchronise) {
    const auto a = ToDevice(first), b = ToDevice(std::vector<float>(static_cast<size_t>(d), 0.0f));
    const auto ma = MakeMatrix(a.data(), DType::kF32, 1, d);
    const auto mb = MakeMatrix(b.data(), DType::kF32, 1, d);
    for (int i = 0; i < 50; ++i) {
      cuda::StreamedLinear(i % 2 == 0 ? ma : mb, {}, matrix, nullptr, StreamedOutput::kStore,
                           i % 2 == 0 ? mb : ma, nullptr);
      if (synchronise) cuda::Check(cudaDeviceSynchronize(), "running on the device");
    }
    return ToHost(a);
  };
  EXPECT_EQ(run(false), run(true));
}

}  // namespace
}  // namespace palu::testing
