#include <algorithm>
#include <memory>

#include "base/cancel.h"
#include "base/error.h"
#include "compress/device.h"
#include "model/calibration_graph.h"
#include "model/grad/cuda/layer.h"
#include "model/grad/cuda/loss.h"
#include "model/grad/linear.h"
#include "ops/rope.h"

namespace palu::cuda {
namespace {

// Residual streams on the device at a time, if no more than a third of what is free.
constexpr int64_t kMaxResidualBytes = int64_t{12} << 30;

int64_t ResidualBudget() {
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return std::min(kMaxResidualBytes, static_cast<int64_t>(free / 3));
}

// Calls on_window once for each window's share of the work that is done.
class Shares {
 public:
  Shares(int64_t windows, int64_t total, const std::function<void()>& on_window)
      : windows_(windows), total_(total), on_window_(on_window) {}
  void Add(int64_t work) {
    done_ += work;
    for (; called_ < done_ * windows_ / total_; ++called_) {
      if (on_window_) on_window_();
    }
  }

 private:
  int64_t windows_, total_, done_ = 0, called_ = 0;
  const std::function<void()>& on_window_;
};

// Batches of windows pass one layer after another. Those for the Fisher information keep the input
// of every layer, from which the backward pass starts.
class Calibration {
 public:
  Calibration(const Model& model, std::span<const TokenId> ids, const CalibrationSource& source,
              const Exec& exec, const std::function<void()>& on_window)
      : config_(model.config()),
        weights_(model.weights()),
        ids_(ids.first(static_cast<size_t>(source.windows * source.seqlen))),
        source_(source),
        pool_(exec.pool),
        n_(source.seqlen),
        residual_(n_ * config_.hidden_size),
        budget_(ResidualBudget()),
        blas_(stream_),
        layers_(config_, weights_, stream_),
        layer_(config_, n_, source.recent, InverseFrequencies(config_.rope, config_.head_dim),
               blas_, stream_),
        shares_(source.windows, (source.windows + 2 * source.fisher_windows) * config_.num_layers,
                on_window) {
    const int64_t hidden = config_.hidden_size;
    device_ids_.Resize(std::ssize(ids_));
    device_ids_.Upload(ids_.data(), std::ssize(ids_), stream_);
    wide_.Resize(n_ * std::max(hidden, source.two_sided ? 2 * config_.kv_size() : 0));
    gram_.Resize(hidden * hidden);
    stats_.source = source;
    for (int64_t l = 0; l < config_.num_layers; ++l) {
      stats_.grams.emplace_back(hidden, hidden).Fill(0);
      if (source.two_sided) two_sided_.emplace_back(hidden, 2 * config_.kv_size());
      if (source.fisher_windows == 0) continue;
      squares_.emplace_back(2 * config_.kv_size(), hidden).Fill(0);
    }
    if (source.fisher_windows == 0) return;
    device_squares_.Resize(2 * config_.kv_size() * hidden);
    if (source.two_sided) {
      device_sums_.Resize(hidden);
      device_far_.Resize(2 * config_.kv_size());
      moment_.Resize(4 * config_.kv_size() * config_.kv_size());
    }
    loss_ = std::make_unique<LossGradient>(config_, weights_, n_, layers_, blas_, stream_);
  }

  CalibrationStats Run() {
    const int64_t bytes = residual_ * static_cast<int64_t>(sizeof(float));
    const int64_t fisher = source_.fisher_windows;
    ForBatches(0, fisher, bytes * (config_.num_layers + 2), [&](int64_t first, int64_t count) {
      inputs_.resize(static_cast<size_t>(config_.num_layers) + 1);
      Forward(first, count, true);
      Backward(first, count);
    });
    inputs_.clear();  // gives the memory back
    inputs_.resize(1);
    ForBatches(fisher, source_.windows, bytes,
               [&](int64_t first, int64_t count) { Forward(first, count, false); });
    const int64_t rows = config_.kv_size();
    for (const Matrix<double>& sum : squares_) {
      stats_.fisher.push_back(
          {FisherByHead(sum.View().RowRange(0, rows), config_.num_kv_heads, fisher),
           FisherByHead(sum.View().RowRange(rows, rows), config_.num_kv_heads, fisher)});
    }
    for (TwoSidedSums& sums : two_sided_) AddTwoSided(source_, std::move(sums), stats_);
    return std::move(stats_);
  }

 private:
  template <class Body>
  void ForBatches(int64_t begin, int64_t end, int64_t bytes_per_window, const Body& body) {
    const int64_t most = std::max<int64_t>(1, budget_ / bytes_per_window);
    const int64_t batches = (end - begin + most - 1) / most;
    for (int64_t b = 0; b < batches; ++b) {  // of equal size, but for one window
      const int64_t first = begin + (end - begin) * b / batches;
      body(first, begin + (end - begin) * (b + 1) / batches - first);
    }
  }

  // The residual stream of a batch's window as it enters a layer.
  float* Input(int64_t layer, int64_t window) {
    const auto i = std::min(static_cast<size_t>(layer), inputs_.size() - 1);
    return inputs_[i].data() + window * residual_;
  }

  std::vector<double>& InputSum(int64_t layer) {
    return two_sided_[static_cast<size_t>(layer)].inputs;
  }

  void Embed(int64_t first, int64_t count) {
    const int64_t hidden = config_.hidden_size;
    Matrix<float> rows(n_, hidden);
    for (int64_t w = 0; w < count; ++w) {
      pool_.ParallelFor(n_, [&](int64_t i, int) {
        const auto id = ids_[static_cast<size_t>((first + w) * n_ + i)];
        grad::Convert(weights_.embedding, id * hidden, hidden, rows.Row(i));
      });
      inputs_[0].Upload(rows.data(), rows.size(), stream_, w * residual_);
      stream_.Synchronize();  // the rows are filled again
    }
  }

  void Forward(int64_t first, int64_t count, bool to_the_end) {
    for (auto& input : inputs_) input.Resize(count * residual_);
    layers_.Prefetch(0);
    Embed(first, count);
    const int64_t hidden = config_.hidden_size, last = config_.num_layers - 1;
    for (int64_t l = 0; l <= last; ++l) {
      ThrowIfCancelled();
      Matrix<double>& gram = stats_.grams[static_cast<size_t>(l)];
      gram_.Upload(gram.data(), gram.size(), stream_);
      if (source_.two_sided) device_sums_.Upload(InputSum(l).data(), hidden, stream_);
      const GradLayerWeights& w = layers_.Use(l);
      for (int64_t i = 0; i < count; ++i) {
        const MatrixView<const float> x = layer_.NormInput(w, Input(l, i));
        Widen(x, wide_.data(), stream_);
        blas_.SyrkLower({wide_.data(), n_, hidden}, {gram_.data(), hidden, hidden});
        if (source_.two_sided) AddColumns(wide_.data(), n_, hidden, device_sums_.data(), stream_);
        if (l < last || to_the_end) layer_.Forward(w, Input(l, i), Input(l + 1, i));
      }
      layers_.Done(l);
      if (l < last) layers_.Prefetch(l + 1);  // while the device works
      gram_.Download(gram.data(), gram.size(), stream_);
      if (source_.two_sided) device_sums_.Download(InputSum(l).data(), hidden, stream_);
      stream_.Synchronize();
      shares_.Add(count);
    }
  }

  void Backward(int64_t first, int64_t count) {
    gradient_.Resize(count * residual_);
    const int64_t last = config_.num_layers - 1;
    for (int64_t i = 0; i < count; ++i) {
      loss_->Run(Input(last + 1, i), device_ids_.data() + (first + i) * n_,
                 gradient_.data() + i * residual_);
    }
    for (int64_t l = last; l >= 0; --l) {
      ThrowIfCancelled();
      Matrix<double>& squares = squares_[static_cast<size_t>(l)];
      device_squares_.Upload(squares.data(), squares.size(), stream_);
      TwoSidedSums* sums = source_.two_sided ? &two_sided_[static_cast<size_t>(l)] : nullptr;
      if (sums) {
        moment_.Upload(sums->moment.data(), sums->moment.size(), stream_);
        device_far_.Upload(sums->far.data(), std::ssize(sums->far), stream_);
      }
      const GradLayerWeights& w = layers_.Use(l);
      for (int64_t i = 0; i < count; ++i) {
        const MatrixView<const float> dw =
            layer_.Backward(w, Input(l, i), l == 0, gradient_.data() + i * residual_);
        AddSquares(dw.data, dw.rows * dw.cols, device_squares_.data(), stream_);
        if (!sums) continue;
        const MatrixView<const float> g = layer_.KvGradients(), far = layer_.FarGradients();
        Widen(g, wide_.data(), stream_);
        blas_.SyrkLower({wide_.data(), n_, g.cols}, {moment_.data(), g.cols, g.cols});
        AddColumnSquares(far, device_far_.data(), stream_);
      }
      layers_.Done(l);
      if (l > 0) layers_.Prefetch(l - 1);
      device_squares_.Download(squares.data(), squares.size(), stream_);
      if (sums) {
        moment_.Download(sums->moment.data(), sums->moment.size(), stream_);
        device_far_.Download(sums->far.data(), std::ssize(sums->far), stream_);
      }
      stream_.Synchronize();
      shares_.Add(2 * count);
    }
  }

  const ModelConfig& config_;
  const ModelWeights& weights_;
  std::span<const TokenId> ids_;
  const CalibrationSource& source_;
  ThreadPool& pool_;
  int64_t n_, residual_;  // tokens and elements of a window
  int64_t budget_;
  Stream stream_;
  Blas blas_;
  LayerStream layers_;
  GradLayer layer_;
  Shares shares_;
  std::unique_ptr<LossGradient> loss_;
  std::vector<DeviceBuffer<float>> inputs_;  // per layer, and the output; or one for all
  DeviceBuffer<float> gradient_;             // of the residual streams
  DeviceBuffer<int32_t> device_ids_;
  DeviceBuffer<double> wide_, gram_, device_squares_, device_sums_, device_far_, moment_;
  std::vector<Matrix<double>> squares_;  // per layer, sum of squared gradients of W_k, W_v
  std::vector<TwoSidedSums> two_sided_;  // per layer
  CalibrationStats stats_;
};

}  // namespace

CalibrationStats Calibrate(const Model& model, std::span<const TokenId> ids,
                           const CalibrationSource& source, const Exec& exec,
                           const std::function<void()>& on_window) {
  RequireDense(model.weights());
  for (int64_t w = 0; w < source.windows; ++w) {
    RequireWindow(model.config(), ids.subspan(static_cast<size_t>(w * source.seqlen),
                                              static_cast<size_t>(source.seqlen)));
  }
  Check(cudaSetDevice(exec.device.index), "choosing the device");
  return Calibration(model, ids, source, exec, on_window).Run();
}

}  // namespace palu::cuda
