// Attention of one layer as the kernels take it: the angles, and where everything lies.
#pragma once

#include "runtime/cuda/device_weights.h"

namespace palu::cuda {

// What the kernels read to rotate queries and keys, in device memory.
class RopeTables {
 public:
  // `queries`: query heads per KV head. `tolerance`: largest error of a unit wave of the split. The
  // tables have arrived when this returns.
  RopeTables(const RopeConfig& rope, int64_t head_dim, int64_t queries, double tolerance,
             cudaStream_t stream);

  RopeView view(bool float32_angles) const {
    return {turns_.data(), tile_.data(), inverse_frequencies_.data(), float32_angles};
  }
  // The frequency split of decode attention; empty where no split of its shape is close enough.
  const SplitView& split() const { return split_; }

 private:
  DeviceBuffer<double> turns_;
  DeviceBuffer<float> inverse_frequencies_;
  DeviceBuffer<float2> tile_;
  DeviceBuffer<float> basis_;
  DeviceBuffer<float2> coefficients_;
  SplitView split_;
};

// The layer and the tables behind `rope` and `split` outlive the view.
AttentionView MakeAttentionView(const ModelConfig& config, const DeviceLayer& layer,
                                const RopeView& rope, const SplitView& split, bool batch_invariant);

}  // namespace palu::cuda
