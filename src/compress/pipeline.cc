#include "compress/pipeline.h"

#include <cmath>

#include "base/cancel.h"
#include "base/error.h"
#include "compress/decompose.h"
#include "compress/device.h"
#include "compress/rotary_basis.h"
#include "compress/whiten.h"
#include "format/rounding.h"
#include "linalg/gemm.h"
#include "linalg/hadamard.h"
#include "model/tensor_names.h"
#include "ops/frequency_split.h"

namespace palu {
namespace {

// Half precision is the only storage type that a factor can overflow.
void RequireFits(MatrixView<const double> values, DType dtype, const std::string& name) {
  if (dtype != DType::kF16) return;
  for (int64_t r = 0; r < values.rows; ++r) {
    for (int64_t c = 0; c < values.cols; ++c) {
      Require(std::abs(values(r, c)) < 65520.0,
              "{}: {} does not fit in F16: expected at most 65504; choose another factor dtype",
              name, values(r, c));
    }
  }
}

// A <- H A, U <- U H^T.
void Rotate(const Matrix<double>& h, GroupFactors& factors) {
  Matrix<double> down(factors.down.rows(), factors.down.cols());
  Matrix<double> up(factors.up.rows(), factors.up.cols());
  Gemm(Trans::kNo, Trans::kNo, 1.0, h, factors.down, 0.0, down);
  Gemm(Trans::kNo, Trans::kYes, 1.0, factors.up, h, 0.0, up);
  factors.down = std::move(down);
  factors.up = std::move(up);
}

// The factors of one projection, group by group: tasks fill their own group.
class ProjectionFactors {
 public:
  ProjectionFactors(const TensorView& weight, const ProjectionRanks& ranks, std::string module)
      : ranks_(ranks), module_(std::move(module)) {
    if (!ranks.factored()) return;
    dense_ = ToDouble(weight);  // [n_kv*d, hidden]
    down_.Resize(ranks.total(), dense_.cols());
    factors_.u.resize(ranks.ranks.size());
    energy_.resize(ranks.ranks.size());
    discarded_.resize(ranks.ranks.size());
  }

  int64_t groups() const { return std::ssize(ranks_.ranks); }

  MatrixView<const double> Group(int64_t g) const {
    const int64_t width = dense_.rows() / groups();
    return dense_.View().RowRange(g * width, width);
  }

  // rotary: of keys in the rotary basis, or null for the decomposition's own.
  void FactorGroup(int64_t g, const GroupSvd& svd, DType dtype, bool hadamard,
                   const RotaryRows* rotary) {
    const auto i = static_cast<size_t>(g);
    const int64_t rank = ranks_.ranks[i], width = dense_.rows() / groups();
    GroupFactors group = svd.Truncate(rank);
    discarded_[i] = svd.DiscardedEnergy(rank);
    for (const double s : svd.singular) energy_[i] += s * s;
    if (rotary != nullptr) {
      TurnToRotaryBasis(*rotary, hadamard, group);
    } else if (hadamard) {
      Rotate(FlatOrthogonal(rank), group);
    }
    RequireFits(group.up, dtype, names::U(module_, g));
    factors_.u[i] = Rounded(group.up, dtype, {width, rank});
    int64_t row = 0;
    for (int64_t before = 0; before < g; ++before) row += ranks_.ranks[static_cast<size_t>(before)];
    std::copy_n(group.down.data(), group.down.size(), down_.Row(row));
  }

  Factors Finish(DType dtype) {
    if (!ranks_.factored()) return {};
    RequireFits(down_, dtype, names::VT(module_));
    factors_.vt = Rounded(down_, dtype, {down_.rows(), down_.cols()});
    return std::move(factors_);
  }

  // Share of the weighted energy.
  double Discarded() const {
    double total = 0, discarded = 0;
    for (size_t i = 0; i < energy_.size(); ++i) {
      total += energy_[i];
      discarded += discarded_[i];
    }
    return total > 0 ? discarded / total : 0;
  }

 private:
  const ProjectionRanks& ranks_;
  std::string module_;
  Matrix<double> dense_, down_;
  Factors factors_;
  std::vector<double> energy_, discarded_;  // per group
};

}  // namespace

bool NeedsGrams(const CompressOptions& options) {
  return options.decomposition == Decomposition::kWhiten;
}

bool NeedsFisher(const CompressOptions& options) {
  return options.ranks.search != RankSearch::kUniform;
}

void CheckOptions(const Model& model, const CompressOptions& options) {
  Require(!model.config().compression,
          "{}: this model is compressed already; compress the dense one", model.path().string());
  RankSearchOptions ranks = options.ranks;
  ranks.search = RankSearch::kUniform;  // which needs no statistics
  SearchRanks(model.config(), ranks, {});
  CheckQuantization(options.quantization);
  Require(!options.quantization.enabled() || ranks.rank_multiple % kLatentMultiple == 0,
          "rank-multiple: expected a multiple of {} for quantised latents, found {}",
          kLatentMultiple, ranks.rank_multiple);
}

CompressionResult Compress(const Model& model, const CalibrationStats& stats,
                           const CompressOptions& options, const Exec& exec,
                           const std::function<void()>& on_layer) {
  std::vector<LayerRanks> ranks = SearchRanks(model.config(), options.ranks, stats.fisher);
  if (!options.quantization.enabled()) {
    MakeFullWidthDense(model.config(), options.ranks.group_size, ranks);
  }
  return CompressWithRanks(model, stats, options, exec, std::move(ranks), on_layer);
}

CompressionResult CompressWithRanks(const Model& model, const CalibrationStats& stats,
                                    const CompressOptions& options, const Exec& exec,
                                    std::vector<LayerRanks> table,
                                    const std::function<void()>& on_layer) {
  CheckOptions(model, options);
  const ModelConfig& config = model.config();
  Require(!NeedsGrams(options) || std::ssize(stats.grams) == config.num_layers,
          "whitening: expected Gram matrices of {} layers, found {}", config.num_layers,
          stats.grams.size());
  CompressionResult result;
  result.compression.group_size = options.ranks.group_size;
  result.compression.ratio = options.ranks.ratio;
  result.compression.rank_multiple = options.ranks.rank_multiple;
  result.compression.search = Name(options.ranks.search);
  result.compression.decompose = options.decomposition == Decomposition::kWhiten ? "whiten" : "svd";
  result.compression.quantization = options.quantization;
  result.compression.hadamard = options.hadamard;
  RotaryRows rotary;
  if (options.rotary_basis) {
    rotary = {config.head_dim, FastPairs(config.heads_per_kv(), config.head_dim),
              options.quantization.bits};
    result.compression.rotary_pairs = rotary.pairs;
  }
  if (options.quantization.enabled()) result.compression.version = 2;
  result.compression.layers = std::move(table);
  std::unique_ptr<cuda::Decomposer> device;
  if (exec.device.kind == Device::Kind::kCuda) device = cuda::MakeDecomposer(exec);
  for (int64_t l = 0; l < config.num_layers; ++l) {
    ThrowIfCancelled();
    const auto i = static_cast<size_t>(l);
    const LayerRanks& ranks = result.compression.layers[i];
    const LayerWeights& weights = model.weights().layers[i];
    Matrix<double> whitening;
    if (NeedsGrams(options) && (ranks.k.factored() || ranks.v.factored())) {
      bool repaired = false;
      whitening = device ? device->Whiten(stats.grams[i], &repaired)
                         : WhiteningFactor(stats.grams[i], &repaired);
      result.repaired_layers += repaired;
    }
    ProjectionFactors k(weights.k.dense, ranks.k, names::KProj(l));
    ProjectionFactors v(weights.v.dense, ranks.v, names::VProj(l));
    const DType k_dtype = options.factor_dtype.value_or(weights.k.dense.dtype);
    const DType v_dtype = options.factor_dtype.value_or(weights.v.dense.dtype);
    std::vector<MatrixView<const double>> groups;
    for (int64_t g = 0; g < k.groups(); ++g) groups.push_back(k.Group(g));
    for (int64_t g = 0; g < v.groups(); ++g) groups.push_back(v.Group(g));
    std::vector<GroupSvd> svds;  // made by the device, if at all
    if (device) svds = device->Decompose(groups, whitening);
    exec.pool.ParallelFor(std::ssize(groups), [&](int64_t task, int) {
      ThrowIfCancelled();
      const auto at = static_cast<size_t>(task);
      const GroupSvd svd = device ? std::move(svds[at]) : DecomposeGroup(groups[at], whitening);
      if (task < k.groups()) {
        k.FactorGroup(task, svd, k_dtype, options.hadamard,
                      options.rotary_basis ? &rotary : nullptr);
      } else {
        v.FactorGroup(task - k.groups(), svd, v_dtype, options.hadamard, nullptr);
      }
    });
    result.factors.push_back({k.Finish(k_dtype), v.Finish(v_dtype)});
    result.discarded.push_back({k.Discarded(), v.Discarded()});
    if (on_layer) on_layer();
  }
  return result;
}

}  // namespace palu
