// From a dense model and its calibration statistics to the factors of a compressed one.
#pragma once

#include <functional>
#include <optional>

#include "compress/rank_search.h"
#include "compress/stats.h"
#include "format/compressed_model.h"
#include "tensor/exec.h"

namespace palu {

enum class Decomposition { kWhiten, kSvd };

struct CompressOptions {
  RankSearchOptions ranks;
  Decomposition decomposition = Decomposition::kWhiten;
  std::optional<DType> factor_dtype;  // of U and A; the projection's own where not given
  LatentQuantization quantization;
  // Rotate every latent by a flat orthogonal matrix H, A <- H A and U <- U H^T: no outliers for the
  // quantiser, the same product (method.md section 3).
  bool hadamard = false;
  // Keys' latents in the basis of rotary_basis.h; the flat rotation then stays inside its blocks.
  bool rotary_basis = false;
};

// True when the options need Gram matrices or Fisher information.
bool NeedsGrams(const CompressOptions& options);
bool NeedsFisher(const CompressOptions& options);

// Throws Error for options out of range or a model that is compressed already: what can be told
// before any calibration.
void CheckOptions(const Model& model, const CompressOptions& options);

struct CompressionResult {
  KvCompression compression;          // source_model and calibration are the caller's to fill
  std::vector<LayerFactors> factors;  // per layer; empty where a projection stays dense
  // Per layer, for keys and values: share of the weighted energy |W L|^2 that truncation discards.
  struct Loss {
    double k = 0, v = 0;
  };
  std::vector<Loss> discarded;
  int64_t repaired_layers = 0;  // whose Gram matrix was not positive definite
  double decode_work = 0;       // with a budget: as BudgetPlan::work
};

// Searches ranks and factors every projection that does not keep its full width; with quantised
// latents those that do, too. `stats` may lack what the options do not need. Throws Error as
// CheckOptions does, for statistics that are missing or not finite, and for factors that overflow
// their dtype. Groups are factored in parallel; the result does not depend on the pool, and on a
// device by rounding in float64 only.
CompressionResult Compress(const Model& model, const CalibrationStats& stats,
                           const CompressOptions& options, const Exec& exec,
                           const std::function<void()>& on_layer = {});

// The same with a given rank table, one entry per layer; every projection that has ranks is
// factored, full width or not.
CompressionResult CompressWithRanks(const Model& model, const CalibrationStats& stats,
                                    const CompressOptions& options, const Exec& exec,
                                    std::vector<LayerRanks> ranks,
                                    const std::function<void()>& on_layer = {});

}  // namespace palu
