// The forward pass over a batch of chunks of sequences, reading and writing the KV cache. Where it
// runs is decided here, once, by Exec::device.
#pragma once

#include <memory>
#include <span>

#include "runtime/forward_pass.h"

namespace palu {

class Transformer {
 public:
  // The model and the cache's layout outlive this object; the cache lives on exec's device. Throws
  // Error when this build, machine or backend cannot run the model so.
  Transformer(const Model& model, const CacheLayout& layout, const Exec& exec,
              const TransformerOptions& options = {});

  // Runs the batch and commits its tokens to their sequences. Returns the number of rows of hidden
  // states, one per token in order, which are kept until the next call. Throws Error for a token
  // outside the vocabulary, before anything is written.
  int64_t Forward(const Batch& batch);

  // Logits [rows.size(), vocab] of some rows, or of `logits.rows` rows from `first` on.
  void Logits(std::span<const int64_t> rows, MatrixView<float> logits);
  void Logits(int64_t first, MatrixView<float> logits);

  // As ForwardPass says.
  void LogProbs(std::span<const int64_t> rows, std::span<const TokenId> targets,
                std::span<double> logprobs, std::span<TokenId> argmax) {
    pass_->LogProbs(rows, targets, logprobs, argmax);
  }
  void Compare(Transformer& other, std::span<const int64_t> rows, std::span<const TokenId> targets,
               std::span<RowDivergence> results) {
    pass_->Compare(*other.pass_, rows, targets, results);
  }
  void Sample(std::span<const int64_t> rows, std::span<const Draw> draws,
              std::span<TokenId> tokens) {
    pass_->Sample(rows, draws, tokens);
  }

  const Model& model() const { return model_; }
  const Exec& exec() const { return exec_; }
  bool fused(int64_t layer) const { return pass_->fused(layer); }
  std::string kernel() const { return pass_->kernel(); }

 private:
  const Model& model_;
  Exec exec_;
  std::unique_ptr<ForwardPass> pass_;
};

}  // namespace palu
