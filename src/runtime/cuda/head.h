// From the hidden states of a step to what is wanted of them: logits, log-probabilities or sampled
// tokens. Only what is wanted comes back from the device.
#pragma once

#include <span>
#include <vector>

#include "ops/cuda/sample.h"
#include "runtime/cuda/products.h"
#include "runtime/forward_pass.h"

namespace palu::cuda {

class Head {
 public:
  // Everything outlives this object.
  Head(const ModelConfig& config, const DeviceWeights& weights, Products& products,
       cudaStream_t stream);

  // Where layers report a latent that cannot be stored (StoreRows).
  int32_t* fault() const { return results_.data(); }

  // `residual` [tokens, hidden] float is the last layer's output; as ForwardPass says otherwise.
  // All wait for the stream and throw Error after a fault.
  void Logits(const DeviceMatrix& residual, std::span<const int64_t> rows,
              MatrixView<float> logits);
  void LogProbs(const DeviceMatrix& residual, std::span<const int64_t> rows,
                std::span<const TokenId> targets, std::span<double> logprobs,
                std::span<TokenId> argmax);
  // q of another model's head and output, of the same vocabulary.
  void Compare(const DeviceMatrix& residual, Head& other, const DeviceMatrix& other_residual,
               std::span<const int64_t> rows, std::span<const TokenId> targets,
               std::span<RowDivergence> results);
  void Sample(const DeviceMatrix& residual, std::span<const int64_t> rows,
              std::span<const Draw> draws, std::span<TokenId> tokens);

 private:
  // Logits of some rows in device memory, for the next operation of the stream.
  DeviceMatrix Multiply(const DeviceMatrix& residual, std::span<const int64_t> rows);
  int64_t SlabRows() const;
  // Waits for the stream; `count` results lie behind the fault in host_results_ then.
  void Fetch(int64_t count);

  const ModelConfig& config_;
  const DeviceWeights& weights_;
  Products& products_;
  cudaStream_t stream_;
  ProductScratch scratch_;
  DeviceBuffer<int32_t> rows_, targets_;
  DeviceBuffer<float> selected_, logits_;
  DeviceBuffer<double> logprobs_;
  DeviceBuffer<RowDivergence> divergences_;
  DeviceBuffer<DeviceDraw> draws_;
  DeviceBuffer<int32_t> results_;  // the fault, then tokens
  PinnedBuffer<int32_t> host_results_;
  PinnedBuffer<float> host_logits_;
  PinnedBuffer<double> host_logprobs_;
  PinnedBuffer<RowDivergence> host_divergences_;
};

}  // namespace palu::cuda
