#include "ops/vector.h"

#include <cmath>

#include "ops/reference/reference.h"
#include "ops_testing.h"

namespace palu::testing {
namespace {

constexpr int64_t kQueries[] = {1, 2, 3, 4, 5, 8};
constexpr int64_t kRowCounts[] = {1, 5, 64};

// Stored rows [T, d] with a gap between them; the last one ends where the allocation does.
struct Rows {
  Rows(DType dtype, int64_t count, int64_t length, uint32_t seed)
      : tensor(dtype, {(count - 1) * (length + 3) + length}, seed),
        rows{tensor.bytes.data(), dtype, length + 3} {}
  double At(int64_t t, int64_t c) const {
    return reference::At(rows.data, rows.dtype, t * rows.stride + c);
  }
  RandomTensor tensor;
  StoredRows rows;
};

// Error bounds: (terms + 1) roundings times the sum of magnitudes, as in linear_test.cc.
TEST(Vector, DotRowsMatchesReferenceAndIsBatchInvariant) {
  ForEachTarget([] {
    for (DType dtype : kStored) {
      for (int64_t d : kSizes) {
        for (int64_t count : kRowCounts) {
          const Rows rows(dtype, count, d, 1);
          for (int64_t queries : kQueries) {
            const StridedMatrix q(queries, d, 1, 2), scores(queries, count, 2, 3);
            DotRows(q.view, rows.rows, scores.view);
            for (int64_t g = 0; g < queries; ++g) {
              for (int64_t t = 0; t < count; ++t) {
                double sum = 0, norm = 0;
                for (int64_t c = 0; c < d; ++c) {
                  sum += q.view(g, c) * rows.At(t, c);
                  norm += std::fabs(q.view(g, c) * rows.At(t, c));
                }
                ASSERT_NEAR(scores.view(g, t), sum, static_cast<double>(d + 1) * kEps * norm);
              }
              Matrix<float> alone(1, count);
              DotRows(q.view.RowRange(g, 1), rows.rows, alone);
              ASSERT_TRUE(SameBits(alone, scores.view.RowRange(g, 1)));
            }
          }
        }
      }
    }
  });
}

TEST(Vector, AccumulateRowsMatchesReferenceAndIsBatchInvariant) {
  ForEachTarget([] {
    for (DType dtype : kStored) {
      for (int64_t r : kSizes) {
        for (int64_t count : kRowCounts) {
          const Rows rows(dtype, count, r, 1);
          for (int64_t queries : kQueries) {
            const StridedMatrix p(queries, count, 1, 2), before(queries, r, 2, 3);
            const StridedMatrix acc = before;
            const MatrixView<float> out(const_cast<float*>(acc.values.data()), queries, r, r + 2);
            AccumulateRows(p.view, rows.rows, out);
            for (int64_t g = 0; g < queries; ++g) {
              for (int64_t c = 0; c < r; ++c) {
                double sum = before.view(g, c), norm = std::fabs(sum);
                for (int64_t t = 0; t < count; ++t) {
                  sum += p.view(g, t) * rows.At(t, c);
                  norm += std::fabs(p.view(g, t) * rows.At(t, c));
                }
                ASSERT_NEAR(out(g, c), sum, static_cast<double>(count + 1) * kEps * norm);
              }
              Matrix<float> alone(1, r);
              std::copy_n(before.view.Row(g), r, alone.data());
              AccumulateRows(p.view.RowRange(g, 1), rows.rows, alone);
              ASSERT_TRUE(SameBits(alone, out.RowRange(g, 1)));
            }
          }
        }
      }
    }
  });
}

TEST(Vector, ElementwiseHelpers) {
  ForEachTarget([] {
    for (int64_t n : kSizes) {
      const auto x = RandomFloats(n, 1), y = RandomFloats(n, 2);
      double dot = 0, norm = 0;
      auto axpy = y, scaled = y, scale = y;
      Axpy(1.5f, x.data(), axpy.data(), n);
      ScaledAdd(0.3f, x.data(), -0.7f, scaled.data(), n);
      Scale(0.3f, scale.data(), n);
      for (size_t i = 0; i < x.size(); ++i) {
        dot += static_cast<double>(x[i]) * y[i];
        norm += std::fabs(static_cast<double>(x[i]) * y[i]);
        EXPECT_NEAR(axpy[i], 1.5 * x[i] + y[i],
                    2 * kEps * (1.5 * std::fabs(x[i]) + std::fabs(y[i])));
        EXPECT_NEAR(scaled[i], double{0.3f} * x[i] - double{0.7f} * y[i],
                    3 * kEps * (std::fabs(x[i]) + std::fabs(y[i])));
        EXPECT_EQ(scale[i], 0.3f * y[i]);
      }
      EXPECT_NEAR(Dot(x.data(), y.data(), n), dot, static_cast<double>(n + 1) * kEps * norm);
    }
  });
}

TEST(Vector, NanReachesOnlyItsColumn) {
  ForEachTarget([] {
    const int64_t r = 83;
    std::vector<float> row(static_cast<size_t>(r), 1.0f);
    row[70] = NAN;
    float zero = 0.0f;
    Matrix<float> acc(1, r);
    acc.Fill(0.0f);
    AccumulateRows(MatrixView<float>(&zero, 1, 1), {row.data(), DType::kF32, r}, acc);
    for (int64_t c = 0; c < r; ++c) EXPECT_EQ(std::isnan(acc(0, c)), c == 70);
  });
}

}  // namespace
}  // namespace palu::testing
