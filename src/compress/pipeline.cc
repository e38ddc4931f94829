#include "compress/pipeline.h"

#include <cmath>

#include "base/cancel.h"
#include "base/error.h"
#include "compress/decompose.h"
#include "compress/whiten.h"
#include "format/rounding.h"
#include "model/tensor_names.h"

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

struct ProjectionResult {
  Factors factors;
  double discarded = 0;  // share of the weighted energy
};

ProjectionResult FactorProjection(const TensorView& weight, const ProjectionRanks& ranks,
                                  MatrixView<const double> whitening, DType dtype,
                                  const std::string& module) {
  const Matrix<double> dense = ToDouble(weight);  // [n_kv*d, hidden]
  const auto groups = static_cast<int64_t>(ranks.ranks.size());
  const int64_t width = dense.rows() / groups;
  Matrix<double> down(ranks.total(), dense.cols());
  ProjectionResult result;
  double total = 0, discarded = 0;
  int64_t row = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t rank = ranks.ranks[static_cast<size_t>(g)];
    const GroupSvd svd = DecomposeGroup(dense.View().RowRange(g * width, width), whitening);
    GroupFactors factors = svd.Truncate(rank);
    discarded += svd.DiscardedEnergy(rank);
    for (const double s : svd.singular) total += s * s;
    RequireFits(factors.up, dtype, names::U(module, g));
    result.factors.u.push_back(Rounded(factors.up, dtype, {width, rank}));
    std::copy_n(factors.down.data(), factors.down.size(), down.Row(row));
    row += rank;
  }
  RequireFits(down, dtype, names::VT(module));
  result.factors.vt = Rounded(down, dtype, {down.rows(), down.cols()});
  result.discarded = total > 0 ? discarded / total : 0;
  return result;
}

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
}

CompressionResult Compress(const Model& model, const CalibrationStats& stats,
                           const CompressOptions& options, const std::function<void()>& on_layer) {
  std::vector<LayerRanks> ranks = SearchRanks(model.config(), options.ranks, stats.fisher);
  MakeFullWidthDense(model.config(), options.ranks.group_size, ranks);
  return CompressWithRanks(model, stats, options, std::move(ranks), on_layer);
}

CompressionResult CompressWithRanks(const Model& model, const CalibrationStats& stats,
                                    const CompressOptions& options, std::vector<LayerRanks> table,
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
  result.compression.layers = std::move(table);
  for (int64_t l = 0; l < config.num_layers; ++l) {
    ThrowIfCancelled();
    const auto i = static_cast<size_t>(l);
    const LayerRanks& ranks = result.compression.layers[i];
    const LayerWeights& weights = model.weights().layers[i];
    LayerFactors& factors = result.factors.emplace_back();
    CompressionResult::Loss& loss = result.discarded.emplace_back();
    Matrix<double> whitening;
    if (NeedsGrams(options) && (ranks.k.factored() || ranks.v.factored())) {
      bool repaired = false;
      whitening = WhiteningFactor(stats.grams[i], &repaired);
      result.repaired_layers += repaired;
    }
    const auto factor = [&](const TensorView& weight, const ProjectionRanks& projection,
                            const std::string& module, Factors& out, double& discarded) {
      if (!projection.factored()) return;
      const DType dtype = options.factor_dtype.value_or(weight.dtype);
      ProjectionResult done = FactorProjection(weight, projection, whitening, dtype, module);
      out = std::move(done.factors);
      discarded = done.discarded;
    };
    factor(weights.k.dense, ranks.k, names::KProj(l), factors.k, loss.k);
    factor(weights.v.dense, ranks.v, names::VProj(l), factors.v, loss.v);
    if (on_layer) on_layer();
  }
  return result;
}

}  // namespace palu
