// Small factored models for the tests of this folder.
#pragma once

#include <fstream>
#include <string>

#include "base/half.h"
#include "format/compressed_model.h"
#include "model/hf_config.h"
#include "testing.h"

namespace palu::testing {

// Deterministic values k/64 with |k| < 64: exact in bfloat16 and in their float64 products.
inline OwnedTensor SmallValues(Shape shape, int seed) {
  OwnedTensor tensor(DType::kBF16, shape);
  auto* out = reinterpret_cast<BFloat16*>(tensor.data());
  uint32_t state = static_cast<uint32_t>(seed) * 2654435761u + 1;
  for (int64_t i = 0; i < NumElements(shape); ++i) {
    state = state * 1664525u + 1013904223u;
    out[i] = ToBFloat16(static_cast<float>(static_cast<int>(state >> 25) - 64) / 64.0f);
  }
  return tensor;
}

// Keys of layer 0 and values of layer 2 factored, all else dense.
struct FactoredModel {
  explicit FactoredModel(const std::string& name)
      : source(Repo("tests/data/models/" + name)),
        config(LoadConfig(source)),
        weights(TensorStore::OpenDirectory(source)) {
    compression.group_size = 2;
    compression.ratio = 0.5;
    compression.search = "uniform";
    compression.decompose = "plain";
    compression.rank_multiple = 1;
    compression.source_model = "org/" + name;
    compression.calibration = "none";
    compression.layers.resize(static_cast<size_t>(config.num_layers));
    factors.resize(compression.layers.size());
    compression.layers[0].k.ranks = {5, 3};
    compression.layers[2].v.ranks = {1, 8};
    factors[0].k = Make({5, 3}, 1);
    factors[2].v = Make({1, 8}, 2);
  }

  Factors Make(const std::vector<int64_t>& ranks, int seed) const {
    Factors made;
    int64_t total = 0;
    for (int64_t rank : ranks) {
      total += rank;
      made.u.push_back(
          SmallValues({2 * config.head_dim, rank}, seed * 100 + static_cast<int>(rank)));
    }
    made.vt = SmallValues({total, config.hidden_size}, seed);
    return made;
  }

  void Write(const std::filesystem::path& directory) const {
    WriteCompressedModel({source, weights, config, compression, factors, "card"}, directory);
  }

  std::filesystem::path source;
  ModelConfig config;
  TensorStore weights;
  KvCompression compression;
  std::vector<LayerFactors> factors;
};

}  // namespace palu::testing
