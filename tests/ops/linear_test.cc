#include "ops/linear.h"

#include <cmath>

#include "base/error.h"
#include "ops/reference/reference.h"
#include "ops_testing.h"
#include "testing.h"

namespace palu::testing {
namespace {

struct Case {
  int64_t m, n, k;
};

// Ragged, and on both sides of every threshold in linear.cc: inline or pool, streamed or tiled.
constexpr Case kCases[] = {{1, 1, 1},    {1, 3, 17},    {1, 65, 63},   {2, 17, 64},
                           {3, 9, 65},   {4, 8, 1000},  {5, 1000, 3},  {16, 33, 64},
                           {17, 65, 63}, {65, 130, 17}, {1, 700, 640}, {70, 700, 64}};

// |error| of a dot product of k terms in any order is below gamma_(k+3) * sum |x| |w|, where 3 more
// roundings cover the bias, the old value and their sum (Higham, Accuracy and Stability, 3.1).
void ExpectClose(const Case& c, MatrixView<const float> x, const TensorView& w,
                 MatrixView<const float> y, const Matrix<double>& expected, double extra) {
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      double norm = extra;
      for (int64_t p = 0; p < c.k; ++p) {
        norm += std::fabs(x(i, p) * reference::At(w.data, w.dtype, j * c.k + p));
      }
      const double bound = static_cast<double>(c.k + 3) * kEps * norm;
      ASSERT_NEAR(y(i, j), expected(i, j), bound) << i << "," << j << " of " << c.m << "x" << c.n;
    }
  }
}

TEST(Linear, MatchesReference) {
  ThreadPool pool(2);
  ForEachTarget([&] {
    for (const Case& c : kCases) {
      for (DType dtype : kStored) {
        for (int variant = 0; variant < 8; ++variant) {
          const bool with_bias = variant & 1, accumulate = variant & 2, deterministic = variant & 4;
          const StridedMatrix x(c.m, c.k, 5, 1);
          const RandomTensor w(dtype, {c.n, c.k}, 2), bias(dtype, {c.n}, 3);
          const StridedMatrix y(c.m, c.n, 2, 4);
          Matrix<double> expected(c.m, c.n);
          for (int64_t i = 0; i < c.m; ++i) {
            std::copy_n(y.view.Row(i), c.n, expected.Row(i));
          }
          reference::Linear(x.view, w.view, with_bias ? &bias.view : nullptr, accumulate, expected);
          Linear({pool, kCpu, deterministic}, x.view, w.view, y.view,
                 {with_bias ? &bias.view : nullptr, accumulate});
          ExpectClose(c, x.view, w.view, y.view, expected, 10.0);
        }
      }
    }
  });
}

TEST(Linear, DeterministicRowsDoNotDependOnBatchOrThreads) {
  ForEachTarget([] {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{70, 65}, {130, 1100}}) {
      for (DType dtype : kStored) {
        const int64_t m = 75;
        const StridedMatrix x(m, k, 0, 1);
        const RandomTensor w(dtype, {n, k}, 2);
        Matrix<float> alone(m, n), batch(m, n);
        for (int64_t i = 0; i < m; ++i) {
          LinearSerial(x.view.RowRange(i, 1), w.view, alone.View().RowRange(i, 1));
        }
        for (int threads : {1, 2, 3}) {
          ThreadPool pool(threads);
          for (int64_t rows : {int64_t{2}, int64_t{7}, int64_t{16}, int64_t{33}, m}) {
            Linear({pool, kCpu, true}, x.view.RowRange(0, rows), w.view,
                   batch.View().RowRange(0, rows));
            EXPECT_TRUE(SameBits(batch.View().RowRange(0, rows), alone.View().RowRange(0, rows)))
                << rows << " rows, " << threads << " threads, " << Name(dtype);
          }
        }
      }
    }
  });
}

TEST(Linear, NanStaysInItsRowAndColumn) {
  ThreadPool pool(2);
  ForEachTarget([&] {
    for (int64_t m : {1, 5, 80}) {
      const int64_t n = 65, k = 33;
      StridedMatrix x(m, k, 0, 1);
      const RandomTensor w(DType::kF32, {n, k}, 2);
      x.view(m - 1, k - 1) = NAN;
      auto* weights = const_cast<float*>(w.view.As<float>());
      weights[7 * k + 3] = INFINITY;
      Matrix<float> y(m, n);
      Linear({pool}, x.view, w.view, y);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          EXPECT_EQ(std::isnan(y(i, j)), i == m - 1);
          EXPECT_EQ(std::isinf(y(i, j)), i != m - 1 && j == 7);
        }
      }
    }
  });
}

TEST(Linear, RejectsWeightsThatDoNotFit) {
  ThreadPool pool(1);
  const StridedMatrix x(2, 4, 0, 1), y(2, 3, 0, 2);
  const RandomTensor wrong(DType::kF32, {3, 5}, 3), wide(DType::kF64, {3, 4}, 3);
  EXPECT_NE(ErrorOf([&] { Linear({pool}, x.view, wrong.view, y.view); }).find("[3, 5]"),
            std::string::npos);
  EXPECT_NE(ErrorOf([&] { Linear({pool}, x.view, wide.view, y.view); }).find("F64"),
            std::string::npos);
}

}  // namespace
}  // namespace palu::testing
