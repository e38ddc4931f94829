// Writing a compressed model directory (docs/format.md).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/config.h"
#include "model/weights.h"
#include "tensor/tensor.h"

namespace palu {

// One projection W: [n_kv * head_dim, hidden], in groups of rows W_i = U_i A_i.
struct Factors {
  OwnedTensor vt;              // all A_i stacked: [sum of ranks, hidden]
  std::vector<OwnedTensor> u;  // per group: [group_size * head_dim, rank_i]
  // When the latents' mean is kept apart: [sum of ranks], and [n_kv * head_dim], which contains the
  // projection's own bias.
  OwnedTensor vt_bias = {}, bias = {};
};

struct LayerFactors {
  Factors k, v;  // without `u` where the projection stays dense; v without `vt` and `vt_bias` where
                 // values share the keys' latents
};

// The compressed model without a directory, as loading one gives it: views into `dense` and
// `factors`, which must outlive it.
Model InMemory(const Model& dense, const KvCompression& compression,
               const std::vector<LayerFactors>& factors);

// What a compressed directory is made of. References must outlive the call that writes it.
struct CompressedModel {
  std::filesystem::path source;  // dense directory: config.json, tokenizer files
  const TensorStore& weights;    // its tensors
  const ModelConfig& config;     // its sizes, without compression
  const KvCompression& compression;
  const std::vector<LayerFactors>& factors;  // one per layer, shaped as `compression` says
  std::string model_card;                    // README.md, see MakeModelCard
};

// Fills `directory`, which exists and is empty; give it StagedDirectory::path() so that nothing
// half-written can be seen. All tensors but the factored weights are copied as they are, dtypes
// this program does not compute with included. Throws Error when a factor's shape differs from its
// ranks, the source lacks a projection, or a file cannot be read or written.
void WriteCompressedModel(const CompressedModel& model, const std::filesystem::path& directory);

}  // namespace palu
