// What calibration leaves behind, in a reusable file: Gram matrices and Fisher information. Another
// ratio, group size, search or decomposition starts from here and needs no pass over the text.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "compress/rank_search.h"
#include "model/weights.h"
#include "tokenizer/tokenizer.h"

namespace palu {

// What the statistics were made from. Two runs with equal sources give the same statistics.
struct CalibrationSource {
  std::string model;    // fingerprint of the dense model
  std::string text;     // fingerprint of the token ids that were used
  int64_t windows = 0;  // for the Gram matrices
  int64_t seqlen = 0;
  int64_t fisher_windows = 0;  // the first of them, for the Fisher information; 0: none
  bool two_sided = false;      // means of the inputs and gradients of the outputs, too
  int64_t recent = 0;          // with two_sided: tokens of the window that the cache will have

  friend bool operator==(const CalibrationSource&, const CalibrationSource&) = default;
};

struct CalibrationStats {
  CalibrationSource source;
  std::vector<Matrix<double>> grams;  // per layer, sum of x x^T, lower triangle [hidden, hidden]
  std::vector<LayerFisher> fisher;    // per layer; empty when not computed
  // With two_sided, per layer: the mean of x [hidden], and the second moment of the gradient of a
  // window's summed loss at the outputs of the key and value projections, keys above values, per
  // token of the Fisher windows; lower triangle [2 n_kv d, 2 n_kv d]. far_squares: its diagonal
  // without what queries less than `recent` tokens later add to the gradients, for those meet a
  // token as it was; [2 n_kv d].
  std::vector<std::vector<double>> means;
  std::vector<Matrix<double>> output_grads;
  std::vector<std::vector<double>> far_squares;
  std::string files;  // names of the texts, for people; may be empty
};

// Hash over configuration, tensor names, shapes and samples of their contents.
std::string Fingerprint(const Model& model);
std::string Fingerprint(std::span<const TokenId> ids);

// A safetensors file: "layers.{i}.gram" F64 packed lower triangle by rows [hidden*(hidden+1)/2],
// "layers.{i}.fisher.k" and ".v" F64 [n_kv], "layers.{i}.mean" F64 [hidden],
// "layers.{i}.output_grad" (packed as the Gram matrix) and "layers.{i}.far_squares" F64
// [2 n_kv d], the source in the metadata. Written
// atomically.
void SaveStats(const std::filesystem::path& path, const CalibrationStats& stats);

// What a statistics file was made from. Throws Error when it is none.
CalibrationSource ReadStatsSource(const std::filesystem::path& path);

// Throws Error naming the field when the file was made from something else than `expected`, or does
// not fit the model. Fisher information is read when `expected` wants some, and must then have been
// computed from as many windows.
CalibrationStats LoadStats(const std::filesystem::path& path, const CalibrationSource& expected,
                           const ModelConfig& config);

}  // namespace palu
