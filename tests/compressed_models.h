// Compressed models made on the spot from the dense fixtures.
#pragma once

#include <functional>

#include "base/rng.h"
#include "compress/pipeline.h"
#include "format/compressed_model.h"
#include "testing.h"

namespace palu::testing {

struct MakeOptions {
  double ratio = 0.5;
  int64_t group_size = 2;
  int64_t rank_multiple = 8;
  RankSearch search = RankSearch::kUniform;
  // Factor also what keeps its full width, which the pipeline leaves dense.
  bool force_factors = false;
  DType dtype = DType::kF32;
  LatentQuantization quantization = {};
  bool hadamard = false;
  std::function<void(std::vector<LayerRanks>&)> edit_ranks = {};  // with force_factors
};

// Plain SVD, so that no calibration text is needed. The directory must outlive the model.
inline Model MakeCompressed(const std::filesystem::path& source,
                            const std::filesystem::path& directory, const MakeOptions& options) {
  const Model dense = Model::Load(source);
  CompressOptions compress;
  compress.ranks = {options.search, options.ratio, options.group_size, options.rank_multiple};
  compress.decomposition = Decomposition::kSvd;
  compress.factor_dtype = options.dtype;
  compress.quantization = options.quantization;
  compress.hadamard = options.hadamard;
  ThreadPool pool(2);
  const Exec exec{.pool = pool};
  std::vector<LayerRanks> ranks = SearchRanks(dense.config(), compress.ranks, {});
  if (options.edit_ranks) options.edit_ranks(ranks);
  const CompressionResult result = options.force_factors
                                       ? CompressWithRanks(dense, {}, compress, exec, ranks)
                                       : Compress(dense, {}, compress, exec);
  std::filesystem::create_directories(directory);
  const TensorStore store = TensorStore::OpenDirectory(source);
  WriteCompressedModel({source, store, dense.config(), result.compression, result.factors, "card"},
                       directory);
  return Model::Load(directory);
}

}  // namespace palu::testing
