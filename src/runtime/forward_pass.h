// What runs a model's layers on some device: the interface between Transformer and the backends.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/weights.h"
#include "ops/divergence.h"
#include "ops/position_table.h"
#include "runtime/fused_values.h"
#include "runtime/kv_cache.h"
#include "runtime/sampler.h"
#include "tensor/exec.h"
#include "tokenizer/tokenizer.h"

namespace palu {

struct TransformerOptions {
  ValueFusion fusion = ValueFusion::kAuto;
  // Prefill attends to the chunk's keys and values as the cache stores them (rounded), as decoding
  // will, instead of as just computed. Always so under Exec::deterministic, in layers whose latents
  // are quantised, and on a GPU.
  bool attend_stored = false;
  RopeAngles rope_angles = RopeAngles::kFloat32;
  // Decode on the CPU with slow rotary pairs as waves where that is less work (ops/lane_keys.h);
  // off: keys are rebuilt whole and weights of quantised values stay float32.
  bool frequency_split = true;
  // Element type of weights and of the rows that meet them on a GPU. When not given, as stored, but
  // F16 for BF16 where that loses next to nothing (runtime/cuda/half_weights.h). The CPU takes
  // weights as stored and computes in float32.
  std::optional<DType> weight_dtype = {};
};

// One step's work: the tokens of all chunks, one chunk after the other. A sequence appears at most
// once. The sequences have room for their chunk (CachedSequence::Reserve).
struct Batch {
  struct Chunk {
    CachedSequence* sequence = nullptr;
    int64_t count = 0;
  };
  std::vector<TokenId> tokens;
  std::vector<Chunk> chunks;

  void Add(CachedSequence& sequence, std::span<const TokenId> chunk_tokens);
};

class ForwardPass {
 public:
  virtual ~ForwardPass() = default;

  // Stores the keys and values of the batch's tokens, all of them known to the vocabulary, and
  // keeps their hidden states after the final norm until the next call.
  virtual void Run(const Batch& batch) = 0;

  // Logits [rows.size(), vocab] of some rows of those hidden states.
  virtual void Logits(std::span<const int64_t> rows, MatrixView<float> logits) = 0;

  // Of rows of those hidden states, log softmax(logits)[targets[i]] (0 for a negative target) and
  // the first of the largest logits; all of the same size.
  virtual void LogProbs(std::span<const int64_t> rows, std::span<const TokenId> targets,
                        std::span<double> logprobs, std::span<TokenId> argmax) = 0;

  // Compares the distributions of rows of those hidden states (p) with those of the same rows after
  // `other`'s last run (q), which is on the same device and has the same vocabulary; all spans of
  // the same size. Throws Error for a pass on another device.
  virtual void Compare(ForwardPass& other, std::span<const int64_t> rows,
                       std::span<const TokenId> targets, std::span<RowDivergence> results) = 0;

  // The token that each draw chooses from the logits of its row: Sampler's, on a GPU within the
  // bounds of ops/cuda/sample.h.
  virtual void Sample(std::span<const int64_t> rows, std::span<const Draw> draws,
                      std::span<TokenId> tokens) = 0;

  // Whether U_v of a layer is applied inside its output projection.
  virtual bool fused(int64_t layer) const = 0;

  // How decoding gets at keys, for the announcement: CacheLayout::kernel() where it is the CPU's.
  virtual std::string kernel() const = 0;
};

std::unique_ptr<ForwardPass> MakeCpuForward(const Model& model, const CacheLayout& layout,
                                            const Exec& exec, const TransformerOptions& options);

namespace cuda {
std::unique_ptr<ForwardPass> MakeForward(const Model& model, const CacheLayout& layout,
                                         const Exec& exec, const TransformerOptions& options);
}

}  // namespace palu
