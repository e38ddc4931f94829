// The forward pass on one NVIDIA GPU. Products give float, the residual stream is float; keys and
// values are read back from the cache as stored.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "runtime/cuda/attention_view.h"
#include "runtime/cuda/device_weights.h"
#include "runtime/cuda/graph.h"
#include "runtime/cuda/head.h"
#include "runtime/cuda/products.h"
#include "runtime/cuda/rebuilt_attention.h"
#include "runtime/cuda/step.h"
#include "runtime/forward_pass.h"

namespace palu::cuda {

class Forward final : public ForwardPass {
 public:
  Forward(const Model& model, const CacheLayout& layout, const Exec& exec,
          const TransformerOptions& options);

  void Run(const Batch& batch) override;
  void Logits(std::span<const int64_t> rows, MatrixView<float> logits) override;
  void LogProbs(std::span<const int64_t> rows, std::span<const TokenId> targets,
                std::span<double> logprobs, std::span<TokenId> argmax) override;
  void Compare(ForwardPass& other, std::span<const int64_t> rows, std::span<const TokenId> targets,
               std::span<RowDivergence> results) override;
  void Sample(std::span<const int64_t> rows, std::span<const Draw> draws,
              std::span<TokenId> tokens) override;
  bool fused(int64_t) const override { return false; }
  std::string kernel() const override;

 private:
  // The buffers of a step, named after what they hold; rows are tokens.
  struct Activations {
    DeviceBuffer<float> residual, qkv;
    DeviceBuffer<char> attended, gated;  // of Products::RowType
    ProductScratch products;
    DeviceBuffer<char> workspace;  // of decode attention
    int64_t tokens = 0;
  };
  // Everything a decode step of one batch size touches, at fixed addresses.
  struct DecodeStep {
    Activations activations;
    std::unique_ptr<StepTables> tables;
    Graph graph;
    bool warm = false;
  };

  // For steps of `tokens` tokens, `decoding` of them of sequences with at most `blocks` blocks.
  void Reserve(Activations& a, int64_t tokens, int32_t decoding, int64_t blocks) const;
  void RunDecode(const Batch& batch);
  void RunMixed(const Batch& batch);
  // All layers and the final norm, on the stream.
  void RunLayers(const Batch& batch, const StepTables& tables, Activations& a);
  void RunLayer(int32_t index, const Batch& batch, const StepTables& tables, Activations& a);
  void Attend(int32_t index, const Batch& batch, const StepTables& tables, Activations& a);
  // Whether the decode kernel takes a chunk of the layer's.
  bool Decodes(int32_t index, const Batch::Chunk& chunk) const {
    return decodes_[static_cast<size_t>(index)] && chunk.count == 1;
  }
  // Recent latents of the chunks that it does not take, one after the other.
  void GatherWindows(int32_t index, const Batch& batch, const StepTables& tables,
                     const StoreView& keys, const StoreView& values, const DeviceMatrix& qkv);
  DeviceMatrix Rows(const DeviceBuffer<char>& buffer, int64_t cols, int64_t rows) const;
  DeviceMatrix Residual(const Activations& a, int64_t rows) const;

  const Model& model_;
  Device device_;
  float clip_ratio_;
  int64_t recent_;  // tokens of a sequence's window
  Stream stream_;
  DeviceWeights weights_;
  Products products_;
  Head head_;
  RopeTables rope_tables_;
  RopeView rope_;
  std::vector<AttentionView> views_;
  std::vector<bool> decodes_;  // layers whose shape the decode kernel takes
  bool all_decode_ = false;

  Activations activations_;  // of steps with prompts
  std::unique_ptr<StepTables> tables_;
  RebuiltAttention rebuilt_;
  std::vector<RecentLatents> recent_latents_;  // of the batch's chunks, for the layer at hand
  DeviceBuffer<char> recent_keys_, recent_values_;
  std::map<int64_t, DecodeStep> decode_steps_;  // by number of sequences
  const Activations* last_ = nullptr;           // where the hidden states of the last step are
  int64_t last_tokens_ = 0;
};

}  // namespace palu::cuda
