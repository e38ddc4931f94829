// The forward pass on the CPU.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ops/attention.h"
#include "ops/rope.h"
#include "runtime/forward_pass.h"

namespace palu {

class CpuForward final : public ForwardPass {
 public:
  CpuForward(const Model& model, const CacheLayout& layout, const Exec& exec,
             const TransformerOptions& options);

  void Run(const Batch& batch) override;
  void Logits(std::span<const int64_t> rows, MatrixView<float> logits) override;
  void LogProbs(std::span<const int64_t> rows, std::span<const TokenId> targets,
                std::span<double> logprobs, std::span<TokenId> argmax) override;
  void Compare(ForwardPass& other, std::span<const int64_t> rows, std::span<const TokenId> targets,
               std::span<RowDivergence> results) override;
  void Sample(std::span<const int64_t> rows, std::span<const Draw> draws,
              std::span<TokenId> tokens) override;
  bool fused(int64_t layer) const override {
    return prepared_[static_cast<size_t>(layer)].attention.fused_values;
  }
  std::string kernel() const override { return kernel_; }

 private:
  // What a layer needs besides its weights.
  struct Prepared {
    AttentionLayer attention;
    bool shared = false;          // values from the keys' latents
    std::vector<Int8Up> int8_up;  // per KV head, when keys are rebuilt from codes
    std::vector<LaneKeys> lane_keys;
    FusedOutput fused;
    TensorView output, output_bias;  // W_o or W_o blockdiag(U_v)
  };

  void Prepare(const CacheLayout& layout, ValueFusion fusion);
  void PlaceTokens(const Batch& batch);
  void RunLayer(const Batch& batch, int64_t layer);
  void ProjectQueries(const LayerWeights& weights);
  void ProjectKeys(const LayerWeights& weights);
  void ProjectValues(const LayerWeights& weights);
  void Store(int64_t layer, const CachedPages& pages, MatrixView<const float> rows);
  // `recent`: the latents of the chunks' recent tokens as the window keeps them, which gets the
  // chunks' own last ones.
  void KeepRecent(const Batch& batch, const CachedPages& pages, MatrixView<const float> rows,
                  Matrix<float>& recent);
  void Attend(const Prepared& prepared);
  void FeedForward(const LayerWeights& weights);
  int64_t SlabRows() const;  // of logits
  // Calls body(i, logits of rows[i]) from all threads, a slab of rows at a time.
  using OnRow = std::function<void(size_t i, std::span<const float> logits)>;
  void ForEachLogits(std::span<const int64_t> rows, const OnRow& body);

  const Model& model_;
  Exec exec_;
  std::string kernel_;
  bool attend_stored_;
  int64_t recent_;  // tokens of the window
  PositionTable table_;
  std::unique_ptr<LaneSplit> split_;
  std::vector<Prepared> prepared_;

  // The step's buffers, named after what they hold; rows are tokens.
  std::vector<QueryChunk> chunks_;
  std::vector<int64_t> positions_;
  Matrix<float> cos_, sin_, residual_, normed_, queries_, keys_, values_, attended_, gate_, up_;
  Matrix<float> recent_keys_, recent_values_;
  int64_t recent_rows_ = 0;  // of these
  Matrix<float> selected_;   // hidden states whose logits are asked for
  Matrix<float> logits_;     // that do not leave
  AttentionWorkspace workspace_;
};

}  // namespace palu
