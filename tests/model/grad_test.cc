#include <cmath>
#include <limits>
#include <vector>

#include "base/thread_pool.h"
#include "linalg/random_matrix.h"
#include "model/grad/attention.h"
#include "model/grad/loss.h"
#include "model/grad/row_math.h"
#include "testing.h"

namespace palu {
namespace {

using testing::RandomMatrix;

constexpr double kEps = std::numeric_limits<double>::epsilon();

// A vocabulary so wide that the logits of this window take two slabs.
TEST(NextTokenLoss, SlabsAgreeWithTheDefinition) {
  const int64_t n = 24, vocab = (int64_t{1} << 20) + 5;
  const auto x = RandomMatrix<double>(n, 2, 1);
  const auto head = RandomMatrix<double>(vocab, 2, 2);
  std::vector<int32_t> ids(n);
  for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>((i * 7919 * 131) % vocab);
  Matrix<double> dx(n, 2);
  ThreadPool pool(2);
  const double loss = grad::NextTokenLoss<double>(pool, x, head, ids, dx);

  double expected = 0.0;
  EXPECT_EQ(dx(n - 1, 0), 0.0);  // nothing follows the last token
  for (int64_t i = 0; i + 1 < n; ++i) {
    double sum = 0.0, mean[2] = {};
    for (int64_t t = 0; t < vocab; ++t) {
      const double e = std::exp(x(i, 0) * head(t, 0) + x(i, 1) * head(t, 1));
      sum += e;
      for (int64_t j = 0; j < 2; ++j) mean[j] += e * head(t, j);
    }
    const int32_t next = ids[i + 1];
    expected += std::log(sum) - x(i, 0) * head(next, 0) - x(i, 1) * head(next, 1);
    for (int64_t j = 0; j < 2; ++j) {
      EXPECT_NEAR(dx(i, j), (mean[j] / sum - head(next, j)) / (n - 1.0), vocab * kEps);
    }
  }
  EXPECT_NEAR(loss, expected / (n - 1.0), vocab * kEps);
}

// sum of dout * attention, where a query less than `recent` tokens after `key` meets it with
// `shift` added to one of its elements: of k, or of v. One KV head, `heads` query heads of d.
double Objective(const Matrix<double>& q, const Matrix<double>& k, const Matrix<double>& v,
                 const Matrix<double>& dout, int64_t recent, int64_t key, int64_t element,
                 bool of_key, double shift) {
  const int64_t d = k.cols(), heads = q.cols() / d;
  double total = 0;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < q.rows(); ++i) {
      const auto shifted = [&](const Matrix<double>& x, bool of_this, int64_t j, int64_t c) {
        const bool near = of_this && j == key && c == element && i - j < recent;
        return x(j, c) + (near ? shift : 0);
      };
      double sum = 0, weighted = 0;
      for (int64_t j = 0; j <= i; ++j) {
        double score = 0, value = 0;
        for (int64_t c = 0; c < d; ++c) {
          score += q(i, h * d + c) * shifted(k, of_key, j, c);
          value += dout(i, h * d + c) * shifted(v, !of_key, j, c);
        }
        const double e = std::exp(score / std::sqrt(static_cast<double>(d)));
        sum += e;
        weighted += e * value;
      }
      total += weighted / sum;
    }
  }
  return total;
}

// Against central differences, at keys around the border of two blocks of queries: their error is
// h^2 times third derivatives, of order one here, and rounding over h.
TEST(CausalAttention, NearQueriesAddWhatTheDerivativeSays) {
  constexpr int64_t kTokens = 300, kDim = 4, kRecent = 9;
  constexpr double kStep = 1e-4;
  ThreadPool pool(2);
  for (const int64_t heads : {1, 2}) {
    const auto q = RandomMatrix<double>(kTokens, heads * kDim, 1);
    const auto k = RandomMatrix<double>(kTokens, kDim, 2),
               v = RandomMatrix<double>(kTokens, kDim, 3);
    const auto dout = RandomMatrix<double>(kTokens, heads * kDim, 4);
    Matrix<double> dq(kTokens, heads * kDim), dk(kTokens, kDim), dv(kTokens, kDim);
    Matrix<double> near_dk(kTokens, kDim), near_dv(kTokens, kDim);
    grad::CausalAttention<double> attention({heads, 1, kDim}, pool);
    attention.Backward(q, k, v, dout, dq, dk, dv, {kRecent, near_dk, near_dv});
    for (const int64_t key : {0, 247, 250, 255, 256, 299}) {
      for (const bool of_key : {true, false}) {
        const auto derivative = [&](int64_t recent) {
          const auto at = [&](double shift) {
            return Objective(q, k, v, dout, recent, key, 1, of_key, shift);
          };
          return (at(kStep) - at(-kStep)) / (2 * kStep);
        };
        EXPECT_NEAR((of_key ? near_dk : near_dv)(key, 1), derivative(kRecent), 1e-7) << key;
        EXPECT_NEAR((of_key ? dk : dv)(key, 1), derivative(kTokens), 1e-7) << key;
      }
    }
  }
}

TEST(RowMath, FloatExpIsAccurate) {
  for (float x = -87.0f; x <= 88.0f; x += 0.0137f) {
    const double exact = std::exp(double{x});
    EXPECT_NEAR(grad::Exp(x) / exact, 1.0, 2.0 * std::numeric_limits<float>::epsilon()) << x;
  }
  EXPECT_EQ(grad::Exp(0.0f), 1.0f);
  EXPECT_LT(grad::Exp(-1e30f), 1e-37f);
  EXPECT_TRUE(std::isfinite(grad::Exp(1e30f)));
}

}  // namespace
}  // namespace palu
