#include "compress/budget_pipeline.h"

#include <algorithm>
#include <cmath>

#include "base/cancel.h"
#include "base/error.h"
#include "compress/decompose.h"
#include "compress/device.h"
#include "compress/two_sided.h"
#include "compress/whiten.h"
#include "format/rounding.h"
#include "linalg/gemm.h"
#include "linalg/hadamard.h"
#include "runtime/cache_layout.h"

namespace palu {
namespace {

// Rows [begin, begin + count) twice: of keys and of values.
struct Rows {
  int64_t begin, count;
};

// What one layer is made from.
struct LayerInput {
  Matrix<double> weight;     // [2 n_kv d, hidden], keys above values
  std::vector<double> bias;  // [2 n_kv d] of the projections
  std::vector<double> mean;  // [hidden]; zeros unless centered
};

struct LayerUnits {
  std::vector<TwoSidedFactors> k, v, shared;  // per group
};

Matrix<double> Stacked(const TensorView& k, const TensorView& v) {
  const Matrix<double> top = ToDouble(k), bottom = ToDouble(v);
  Matrix<double> both(top.rows() + bottom.rows(), top.cols());
  std::copy_n(top.data(), top.size(), both.data());
  std::copy_n(bottom.data(), bottom.size(), both.Row(top.rows()));
  return both;
}

Matrix<double> Covariance(MatrixView<const double> gram, const std::vector<double>& mean,
                          double tokens) {
  Matrix<double> c(gram.rows, gram.cols);
  for (int64_t i = 0; i < c.rows(); ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      c(i, j) = gram(i, j) / tokens - mean[static_cast<size_t>(i)] * mean[static_cast<size_t>(j)];
    }
  }
  return c;
}

// Every output of a range counts as their mean does.
Matrix<double> FlatOutputFactor(MatrixView<const double> g, const std::vector<Rows>& ranges) {
  int64_t n = 0;
  for (const Rows& rows : ranges) n += rows.count;
  Matrix<double> factor(n, n);
  factor.Fill(0);
  int64_t at = 0;
  for (const Rows& rows : ranges) {
    double trace = 0;
    for (int64_t r = 0; r < rows.count; ++r) trace += g(rows.begin + r, rows.begin + r);
    const double root = std::sqrt(trace / static_cast<double>(rows.count));
    for (int64_t r = 0; r < rows.count; ++r, ++at) factor(at, at) = root;
  }
  return factor;
}

// Factor of the part of G that belongs to some rows, given as ranges.
Matrix<double> OutputFactor(MatrixView<const double> g, const std::vector<Rows>& ranges,
                            const BudgetCompressOptions& options) {
  if (!options.output_weighting) return FlatOutputFactor(g, ranges);
  std::vector<int64_t> index;
  for (const Rows& rows : ranges) {
    for (int64_t r = 0; r < rows.count; ++r) index.push_back(rows.begin + r);
  }
  const auto n = std::ssize(index);
  Matrix<double> part(n, n);
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      part(i, j) = g(index[static_cast<size_t>(i)], index[static_cast<size_t>(j)]);
    }
    trace += part(i, i);
  }
  for (int64_t i = 0; i < n; ++i) part(i, i) += options.damping * trace / static_cast<double>(n);
  return WhiteningFactor(part);
}

Matrix<double> RowsOf(MatrixView<const double> weight, const std::vector<Rows>& ranges) {
  int64_t count = 0;
  for (const Rows& rows : ranges) count += rows.count;
  Matrix<double> out(count, weight.cols);
  int64_t at = 0;
  for (const Rows& rows : ranges) {
    for (int64_t r = 0; r < rows.count; ++r) {
      std::copy_n(weight.Row(rows.begin + r), weight.cols, out.Row(at++));
    }
  }
  return out;
}

// One unit's factors, cut, rotated inside its tiers, and scaled so that a stored latent has
// variance 1 on the calibration text.
GroupFactors Stored(const TwoSidedFactors& unit, const std::vector<LatentTier>& tiers) {
  int64_t rank = 0;
  for (const LatentTier& tier : tiers) rank += tier.width;
  GroupFactors out{
      Matrix<double>(unit.up.rows(), rank), Matrix<double>(rank, unit.down.cols()), {}};
  out.up.Fill(0);
  out.down.Fill(0);
  const auto k = std::ssize(unit.energy);
  int64_t column = 0;
  for (const LatentTier& tier : tiers) {
    const int64_t width = std::min(tier.width, k - column);  // beyond k: zeros
    double energy = 0;
    for (int64_t i = 0; i < width; ++i) energy += unit.energy[static_cast<size_t>(column + i)];
    const double deviation = std::sqrt(energy / static_cast<double>(tier.width));
    const double scale = deviation > 0 ? deviation : 1;
    const Matrix<double> rotation = FlatOrthogonal(tier.width);
    Gemm(Trans::kNo, Trans::kNo, 1 / scale, rotation.View().ColRange(0, width),
         unit.down.View().RowRange(column, width), 0.0,
         out.down.View().RowRange(column, tier.width));
    Gemm(Trans::kNo, Trans::kYes, scale, unit.up.View().ColRange(column, width),
         rotation.View().ColRange(0, width), 0.0, out.up.View().ColRange(column, tier.width));
    column += tier.width;
  }
  return out;
}

OwnedTensor RoundedVector(const std::vector<double>& values) {
  const auto n = static_cast<int64_t>(values.size());
  return Rounded(MatrixView<const double>(values.data(), n, 1), DType::kF32, {n});
}

// Collects the factors of one projection, group by group.
class FactorBuilder {
 public:
  FactorBuilder(DType dtype, int64_t hidden) : dtype_(dtype), hidden_(hidden) {}

  // rows: of `factors.up` that rebuild this projection.
  void AddGroup(const GroupFactors& factors, Rows rows, bool own_latents) {
    const auto up = factors.up.View().RowRange(rows.begin, rows.count);
    out_.u.push_back(Rounded(up, dtype_, {up.rows, up.cols}));
    if (!own_latents) return;
    down_.insert(down_.end(), factors.down.data(), factors.down.data() + factors.down.size());
  }

  Factors Finish(const std::vector<double>& mean, bool centered, const std::vector<double>& bias) {
    const auto rank = static_cast<int64_t>(down_.size()) / hidden_;
    if (rank > 0) {
      out_.vt =
          Rounded(MatrixView<const double>(down_.data(), rank, hidden_), dtype_, {rank, hidden_});
    }
    if (!centered) return std::move(out_);
    if (rank > 0) {
      // From the factors as stored: what their rounding does to the mean is no noise to keep.
      const Matrix<double> stored = ToDouble(out_.vt.View());
      std::vector<double> shift(static_cast<size_t>(rank));
      for (int64_t r = 0; r < rank; ++r) {
        for (int64_t c = 0; c < hidden_; ++c) {
          shift[static_cast<size_t>(r)] -= stored(r, c) * mean[static_cast<size_t>(c)];
        }
      }
      out_.vt_bias = RoundedVector(shift);
    }
    out_.bias = RoundedVector(bias);
    return std::move(out_);
  }

 private:
  DType dtype_;
  int64_t hidden_;
  std::vector<double> down_;
  Factors out_;
};

}  // namespace

class BudgetCompressor::Impl {
 public:
  Impl(const Model& model, const CalibrationStats& stats, const BudgetCompressOptions& options,
       const Exec& exec, const std::function<void()>& on_layer)
      : config_(model.config()), model_(model), stats_(stats), options_(options), exec_(exec) {
    if (exec.device.kind == Device::Kind::kCuda) device_ = cuda::MakeDecomposer(exec);
    for (int64_t l = 0; l < config_.num_layers; ++l) {
      ThrowIfCancelled();
      Decompose(l);
      if (on_layer) on_layer();
    }
  }

  CompressionResult Compress(double truncation_price) const {
    BudgetOptions search;
    search.bits_per_token =
        options_.bits_per_element * static_cast<double>(2 * config_.num_layers * config_.kv_size());
    search.bits = options_.bits;
    search.block = options_.block;
    search.truncation_price = truncation_price;
    search.window_bits = static_cast<double>(8 * sizeof(Half)) *
                         static_cast<double>(options_.recent) / kStatedContext;
    search.allow_shared = options_.allow_shared;
    search.allow_separate = options_.allow_separate;
    search.keys = KeyCost(group_rows());
    search.values = ValueCost(options_.group_size * config_.num_heads / config_.num_kv_heads);
    search.work_weight = options_.work_weight;
    const BudgetPlan plan = SearchBudget(choices_, search);
    CompressionResult result;
    KvCompression& kv = result.compression;
    kv.version = options_.recent > 0 ? 4 : 3;
    kv.recent = options_.recent;
    kv.group_size = options_.group_size;
    kv.search = "budget";
    kv.decompose = options_.output_weighting ? "two-sided" : "whiten";
    kv.rank_multiple = options_.block;
    kv.hadamard = true;
    kv.tiered = true;
    kv.budget = options_.bits_per_element;
    kv.predicted_loss = FarLoss(plan);
    kv.centered = options_.centered;
    kv.layers.resize(plan.layers.size());
    result.factors.resize(plan.layers.size());
    exec_.pool.ParallelFor(config_.num_layers, [&](int64_t l, int) {
      ThrowIfCancelled();
      const auto i = static_cast<size_t>(l);
      result.factors[i] = Build(l, plan.layers[i], kv.layers[i]);
    });
    kv.ratio = std::min(1.0, KeptFraction(config_, kv.layers));
    result.repaired_layers = repaired_;
    result.decode_work = plan.work;
    return result;
  }

 private:
  int64_t groups() const { return config_.num_kv_heads / options_.group_size; }
  int64_t group_rows() const { return options_.group_size * config_.head_dim; }
  // The part of the predicted loss that queries beyond the window add, by the share of their
  // gradients in those of a unit's outputs. The search itself weighs errors by all queries: what
  // near ones say of a direction's worth holds for other text, too.
  double FarLoss(const BudgetPlan& plan) const {
    double loss = 0;
    for (int64_t l = 0; l < config_.num_layers; ++l) {
      const auto i = static_cast<size_t>(l);
      const auto share = [&](const std::vector<Rows>& ranges) {
        double far = 0, all = 0;
        for (const Rows& rows : ranges) {
          for (int64_t r = rows.begin; r < rows.begin + rows.count; ++r) {
            far += stats_.far_squares[i][static_cast<size_t>(r)];
            all += stats_.output_grads[i](r, r);
          }
        }
        return all > 0 ? far / all : 1;
      };
      for (int64_t g = 0; g < groups(); ++g) {
        const GroupPlan& group = plan.layers[i][static_cast<size_t>(g)];
        if (group.shared) {
          loss += group.k_loss * share({KeyRows(g), ValueRows(g)});
        } else {
          loss += group.k_loss * share({KeyRows(g)}) + group.v_loss * share({ValueRows(g)});
        }
      }
    }
    return loss;
  }
  Rows KeyRows(int64_t g) const { return {g * group_rows(), group_rows()}; }
  Rows ValueRows(int64_t g) const { return {config_.kv_size() + g * group_rows(), group_rows()}; }

  void Decompose(int64_t l) {
    const auto i = static_cast<size_t>(l);
    const LayerWeights& weights = model_.weights().layers[i];
    LayerInput& layer = inputs_.emplace_back();
    layer.weight = Stacked(weights.k.dense, weights.v.dense);
    for (const TensorView& bias : {weights.k.bias, weights.v.bias}) {
      if (!bias) {
        layer.bias.resize(layer.bias.size() + static_cast<size_t>(config_.kv_size()));
        continue;
      }
      const Matrix<double> values = ToDouble(bias);
      layer.bias.insert(layer.bias.end(), values.data(), values.data() + values.size());
    }
    const auto tokens = static_cast<double>(stats_.source.windows * stats_.source.seqlen);
    layer.mean = stats_.means[i];
    if (!options_.centered) std::fill(layer.mean.begin(), layer.mean.end(), 0.0);
    const Matrix<double> covariance = Covariance(stats_.grams[i], layer.mean, tokens);
    bool repaired = false;
    const Matrix<double> input =
        device_ ? device_->Whiten(covariance, &repaired) : WhiteningFactor(covariance, &repaired);
    repaired_ += repaired;

    LayerUnits& units = units_.emplace_back();
    const auto n = static_cast<size_t>(groups());
    std::vector<std::vector<Rows>> rows;
    std::vector<TwoSidedFactors*> factors;
    for (auto* list : {&units.shared, &units.k, &units.v}) {
      list->resize(n);
      for (size_t g = 0; g < n; ++g) factors.push_back(&(*list)[g]);
    }
    for (int64_t g = 0; g < groups(); ++g) rows.push_back({KeyRows(g), ValueRows(g)});
    for (int64_t g = 0; g < groups(); ++g) rows.push_back({KeyRows(g)});
    for (int64_t g = 0; g < groups(); ++g) rows.push_back({ValueRows(g)});
    device_ ? FactorOnDevice(l, rows, input, factors) : Factor(l, rows, input, factors);
    std::vector<GroupChoices>& choices = choices_.emplace_back();
    for (size_t g = 0; g < n; ++g) {
      choices.push_back({units.k[g].energy, units.v[g].energy, units.shared[g].energy});
    }
  }

  // Units of the given rows of layer l.
  void Factor(int64_t l, const std::vector<std::vector<Rows>>& rows, const Matrix<double>& input,
              const std::vector<TwoSidedFactors*>& factors) {
    const auto i = static_cast<size_t>(l);
    exec_.pool.ParallelFor(std::ssize(rows), [&](int64_t task, int) {
      ThrowIfCancelled();
      const auto t = static_cast<size_t>(task);
      const Matrix<double> output = OutputFactor(stats_.output_grads[i], rows[t], options_);
      *factors[t] = DecomposeTwoSided(RowsOf(inputs_[i].weight, rows[t]), input, output);
    });
  }

  // The device does what grows with the hidden size.
  void FactorOnDevice(int64_t l, const std::vector<std::vector<Rows>>& rows,
                      const Matrix<double>& input, const std::vector<TwoSidedFactors*>& factors) {
    const auto i = static_cast<size_t>(l);
    std::vector<Matrix<double>> outputs(rows.size()), weighted(rows.size());
    exec_.pool.ParallelFor(std::ssize(rows), [&](int64_t task, int) {
      ThrowIfCancelled();
      const auto t = static_cast<size_t>(task);
      outputs[t] = OutputFactor(stats_.output_grads[i], rows[t], options_);
      weighted[t] = WeighOutputs(RowsOf(inputs_[i].weight, rows[t]), outputs[t]);
    });
    std::vector<GroupSvd> svds = device_->Decompose(
        std::vector<MatrixView<const double>>(weighted.begin(), weighted.end()), input);
    exec_.pool.ParallelFor(std::ssize(rows), [&](int64_t task, int) {
      const auto t = static_cast<size_t>(task);
      *factors[t] = TwoSidedFrom(std::move(svds[t]), outputs[t]);
    });
  }

  LayerFactors Build(int64_t l, const std::vector<GroupPlan>& plan, LayerRanks& ranks) const {
    const auto i = static_cast<size_t>(l);
    const LayerInput& layer = inputs_[i];
    const LayerWeights& weights = model_.weights().layers[i];
    const DType own = weights.k.dense.dtype == DType::kF32 ? DType::kF32 : DType::kF16;
    const DType dtype = options_.factor_dtype.value_or(own);
    FactorBuilder k(dtype, config_.hidden_size), v(dtype, config_.hidden_size);
    ranks.shared = plan.front().shared;
    for (int64_t g = 0; g < groups(); ++g) {
      const auto at = static_cast<size_t>(g);
      AddTiers(plan[at].k, ranks.k);
      if (ranks.shared) {
        const GroupFactors both = Stored(units_[i].shared[at], plan[at].k);
        k.AddGroup(both, {0, group_rows()}, true);
        v.AddGroup(both, {group_rows(), group_rows()}, false);
        continue;
      }
      AddTiers(plan[at].v, ranks.v);
      k.AddGroup(Stored(units_[i].k[at], plan[at].k), {0, group_rows()}, true);
      v.AddGroup(Stored(units_[i].v[at], plan[at].v), {0, group_rows()}, true);
    }
    if (ranks.shared) ranks.v = ranks.k;
    // The whole projection of the mean, truncated parts included, comes back for nothing.
    const auto half = static_cast<std::ptrdiff_t>(config_.kv_size());
    std::vector<double> bias = layer.bias;
    for (size_t r = 0; r < bias.size(); ++r) {
      for (int64_t c = 0; c < config_.hidden_size; ++c) {
        bias[r] += layer.weight(static_cast<int64_t>(r), c) * layer.mean[static_cast<size_t>(c)];
      }
    }
    LayerFactors factors;
    factors.k = k.Finish(layer.mean, options_.centered, {bias.begin(), bias.begin() + half});
    factors.v = v.Finish(layer.mean, options_.centered, {bias.begin() + half, bias.end()});
    return factors;
  }

  static void AddTiers(const std::vector<LatentTier>& tiers, ProjectionRanks& ranks) {
    int64_t rank = 0;
    for (const LatentTier& tier : tiers) rank += tier.width;
    ranks.ranks.push_back(rank);
    ranks.tiers.push_back(tiers);
  }

  const ModelConfig& config_;
  const Model& model_;
  const CalibrationStats& stats_;
  const BudgetCompressOptions& options_;
  const Exec& exec_;
  std::unique_ptr<cuda::Decomposer> device_;  // null on the CPU
  std::vector<LayerInput> inputs_;
  std::vector<LayerUnits> units_;
  std::vector<std::vector<GroupChoices>> choices_;
  int64_t repaired_ = 0;
};

void CheckBudgetOptions(const Model& model, const BudgetCompressOptions& options) {
  const ModelConfig& config = model.config();
  Require(!config.compression, "{}: this model is compressed already; compress the dense one",
          model.path().string());
  Require(options.group_size >= 1 && config.num_kv_heads % options.group_size == 0,
          "group-size: expected a divisor of the {} KV heads, found {}", config.num_kv_heads,
          options.group_size);
  Require(options.bits_per_element > 0 && options.bits_per_element <= 16,
          "budget: expected bits per element above 0 and up to 16, found {}",
          options.bits_per_element);
  Require(options.recent >= 0 && options.recent <= kStatedContext,
          "recent: expected a number of tokens from 0 to {}, found {}", kStatedContext,
          options.recent);
  Require(options.block > 0 && options.block % kTierMultiple == 0,
          "tier-block: expected a multiple of {}, found {}", kTierMultiple, options.block);
  const int64_t width = options.group_size * config.head_dim;
  Require(width % options.block == 0 && config.hidden_size % options.block == 0,
          "tier-block: expected a divisor of the groups' width {} and of the hidden size {}, found "
          "{}",
          width, config.hidden_size, options.block);
}

BudgetCompressor::BudgetCompressor(const Model& model, const CalibrationStats& stats,
                                   const BudgetCompressOptions& options, const Exec& exec,
                                   const std::function<void()>& on_layer) {
  CheckBudgetOptions(model, options);
  const auto layers = static_cast<size_t>(model.config().num_layers);
  Require(stats.grams.size() == layers && stats.means.size() == layers &&
              stats.output_grads.size() == layers && stats.far_squares.size() == layers,
          "budget: expected calibration statistics with means and output gradients of {} layers",
          layers);
  Require(stats.source.recent == options.recent,
          "budget: expected calibration statistics for a window of {} recent tokens, found {}",
          options.recent, stats.source.recent);
  impl_ = std::make_unique<Impl>(model, stats, options, exec, on_layer);
}

BudgetCompressor::~BudgetCompressor() = default;

CompressionResult BudgetCompressor::Compress(double truncation_price) const {
  return impl_->Compress(truncation_price);
}

CompressionResult CompressToBudget(const Model& model, const CalibrationStats& stats,
                                   const BudgetCompressOptions& options, const Exec& exec,
                                   const std::function<void()>& on_layer) {
  return BudgetCompressor(model, stats, options, exec, on_layer).Compress(options.truncation_price);
}

}  // namespace palu
