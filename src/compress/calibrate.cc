#include "compress/calibrate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/cancel.h"
#include "base/error.h"
#include "compress/device.h"
#include "linalg/decompositions.h"
#include "model/calibration_graph.h"
#include "ops/rope.h"

namespace palu {
namespace {

// Sum over windows of squared gradients of one projection, [n_kv*d, hidden].
class SquaredGradients {
 public:
  SquaredGradients(int64_t rows, int64_t cols) : sum_(rows, cols) { sum_.Fill(0); }

  void Add(const Exec& exec, MatrixView<const float> gradient) {
    exec.pool.ParallelFor(gradient.rows, [&](int64_t r, int) {
      const float* g = gradient.Row(r);
      double* s = sum_.Row(r);
      for (int64_t c = 0; c < gradient.cols; ++c) s[c] += static_cast<double>(g[c]) * g[c];
    });
  }

  const Matrix<double>& sum() const { return sum_; }

 private:
  Matrix<double> sum_;
};

void AddInput(MatrixView<const float> x, TwoSidedSums& sums) {
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t c = 0; c < x.cols; ++c) sums.inputs[static_cast<size_t>(c)] += double{x(t, c)};
  }
}

// `both` is scratch: keys above values.
void AddGradients(ThreadPool& pool, const KvGradients<float>& gradients, Matrix<float>& both,
                  TwoSidedSums& sums) {
  const int64_t half = gradients.dk.cols;
  both.Resize(gradients.dk.rows, 2 * half);
  for (int64_t t = 0; t < both.rows(); ++t) {
    std::copy_n(gradients.dk.Row(t), half, both.Row(t));
    std::copy_n(gradients.dv.Row(t), half, both.Row(t) + half);
    for (int64_t c = 0; c < half; ++c) {
      const double k = gradients.far_dk(t, c), v = gradients.far_dv(t, c);
      sums.far[static_cast<size_t>(c)] += k * k;
      sums.far[static_cast<size_t>(half + c)] += v * v;
    }
  }
  SyrkAccumulate(pool, both, sums.moment);
}

}  // namespace

TwoSidedSums::TwoSidedSums(int64_t hidden, int64_t rows)
    : inputs(static_cast<size_t>(hidden), 0.0),
      moment(rows, rows),
      far(static_cast<size_t>(rows), 0.0) {
  moment.Fill(0);
}

void AddTwoSided(const CalibrationSource& source, TwoSidedSums sums, CalibrationStats& stats) {
  const auto tokens = static_cast<double>(source.windows * source.seqlen);
  for (double& m : sums.inputs) m /= tokens;
  // The loss is a window's mean over seqlen - 1 positions; the sum is what a latent's error costs.
  const auto positions = static_cast<double>(source.seqlen - 1);
  const double scale =
      positions * positions / static_cast<double>(source.fisher_windows * source.seqlen);
  for (int64_t i = 0; i < sums.moment.size(); ++i) sums.moment.data()[i] *= scale;
  for (double& f : sums.far) f *= scale;
  stats.means.push_back(std::move(sums.inputs));
  stats.output_grads.push_back(std::move(sums.moment));
  stats.far_squares.push_back(std::move(sums.far));
}

std::vector<double> FisherByHead(MatrixView<const double> sum, int64_t heads, int64_t windows) {
  std::vector<double> fisher(static_cast<size_t>(heads));
  const int64_t rows = sum.rows / heads;
  for (int64_t h = 0; h < heads; ++h) {
    const double* begin = sum.Row(h * rows);
    double total = 0;
    for (int64_t i = 0; i < rows * sum.cols; ++i) {
      total += std::sqrt(begin[i] / static_cast<double>(windows));
    }
    fisher[static_cast<size_t>(h)] = total / static_cast<double>(rows * sum.cols);
  }
  return fisher;
}

CalibrationSource PlanCalibration(const Model& model, std::span<const TokenId> ids, int64_t windows,
                                  int64_t seqlen, int64_t fisher_windows, bool two_sided,
                                  int64_t recent) {
  Require(windows >= 1, "calib-windows: expected 1 or more, found {}", windows);
  Require(seqlen >= 2, "calib-seqlen: expected 2 or more, found {}", seqlen);
  Require(fisher_windows >= 0 && fisher_windows <= windows,
          "fisher-windows: expected a number from 0 to the {} calibration windows, found {}",
          windows, fisher_windows);
  const auto available = static_cast<int64_t>(ids.size()) / seqlen;
  Require(windows <= available,
          "the calibration text has {} tokens, BOS included: expected {} windows of {}, found {}",
          ids.size(), windows, seqlen, available);
  CalibrationSource source;
  source.model = Fingerprint(model);
  source.text = Fingerprint(ids.first(static_cast<size_t>(windows * seqlen)));
  source.windows = windows;
  source.seqlen = seqlen;
  source.fisher_windows = fisher_windows;
  source.two_sided = two_sided;
  source.recent = two_sided ? recent : 0;
  Require(!two_sided || fisher_windows > 0,
          "fisher-windows: expected 1 or more for --budget, found 0");
  return source;
}

CalibrationStats Calibrate(const Model& model, std::span<const TokenId> ids,
                           const CalibrationSource& source, const Exec& exec,
                           const std::function<void()>& on_window) {
  if (exec.device.kind == Device::Kind::kCuda) {
    return cuda::Calibrate(model, ids, source, exec, on_window);
  }
  const ModelConfig& config = model.config();
  CalibrationStats stats;
  stats.source = source;
  std::vector<SquaredGradients> k, v;
  std::vector<TwoSidedSums> two_sided;
  Matrix<float> both;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    stats.grams.emplace_back(config.hidden_size, config.hidden_size).Fill(0);
    if (source.two_sided) two_sided.emplace_back(config.hidden_size, 2 * config.kv_size());
    if (source.fisher_windows == 0) continue;
    k.emplace_back(config.kv_size(), config.hidden_size);
    v.emplace_back(config.kv_size(), config.hidden_size);
  }
  CalibrationGraph<float> graph(config, model.weights(),
                                InverseFrequencies(config.rope, config.head_dim), exec.pool,
                                source.recent);
  const auto on_input = [&](int64_t layer, MatrixView<const float> x) {
    ThrowIfCancelled();  // a window of a large model takes minutes
    SyrkAccumulate(exec.pool, x, stats.grams[static_cast<size_t>(layer)]);
    if (source.two_sided) AddInput(x, two_sided[static_cast<size_t>(layer)]);
  };
  const auto on_gradient = [&](int64_t layer, const KvGradients<float>& gradients) {
    ThrowIfCancelled();
    k[static_cast<size_t>(layer)].Add(exec, gradients.dwk);
    v[static_cast<size_t>(layer)].Add(exec, gradients.dwv);
    if (source.two_sided) {
      AddGradients(exec.pool, gradients, both, two_sided[static_cast<size_t>(layer)]);
    }
  };
  for (int64_t w = 0; w < source.windows; ++w) {
    const auto window =
        ids.subspan(static_cast<size_t>(w * source.seqlen), static_cast<size_t>(source.seqlen));
    if (w < source.fisher_windows) {
      graph.Differentiate(window, on_input, on_gradient);
    } else {
      graph.CollectInputs(window, on_input);
    }
    if (on_window) on_window();
  }
  for (TwoSidedSums& sums : two_sided) AddTwoSided(source, std::move(sums), stats);
  for (size_t l = 0; l < k.size(); ++l) {
    stats.fisher.push_back({FisherByHead(k[l].sum(), config.num_kv_heads, source.fisher_windows),
                            FisherByHead(v[l].sum(), config.num_kv_heads, source.fisher_windows)});
  }
  return stats;
}

}  // namespace palu
