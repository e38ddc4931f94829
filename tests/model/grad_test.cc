#include <cmath>
#include <limits>
#include <vector>

#include "base/thread_pool.h"
#include "linalg/random_matrix.h"
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
