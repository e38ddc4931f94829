// A model's weights in device memory, laid out for the forward pass: projections that read the same
// rows are stacked into one matrix, norms and biases are float, U is in the type in which latents
// are read: F16 for codes unless the cache is F32, else the cache's.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "model/weights.h"
#include "ops/cuda/attention.h"
#include "ops/cuda/linear.h"
#include "runtime/cache_layout.h"
#include "tensor/cuda/buffer.h"

namespace palu::cuda {

// Bytes of a matrix or vector in device memory.
class DeviceTensor {
 public:
  DeviceTensor() = default;
  DeviceTensor(DType dtype, int64_t rows, int64_t cols);

  DeviceMatrix Matrix() const { return {bytes_.data(), dtype_, rows_, cols_, cols_}; }
  // The elements are of another type of the same size from here on.
  void Reinterpret(DType dtype);
  const float* AsFloat() const;  // null when empty; F32 only
  char* data() const { return bytes_.data(); }
  int64_t bytes() const { return bytes_.bytes(); }
  explicit operator bool() const { return bytes_.data() != nullptr; }

 private:
  DeviceBuffer<char> bytes_;
  DType dtype_ = DType::kF32;
  int64_t rows_ = 0, cols_ = 0;
};

// Where keys or values of one layer lie in a block.
struct DevicePages {
  ProjectionView view;
  std::vector<PageView> pages;  // as in view.pages
  int64_t width = 0;            // elements per token, latents or heads
  DeviceBuffer<PageView> device_pages;
};

// Throws Error for a page of more than kMaxTiers tiers.
DevicePages UploadPages(const CachedPages& pages, cudaStream_t stream);

// And how heads are rebuilt.
struct DeviceProjection : DevicePages {
  std::vector<DeviceTensor> up;         // per page [g*d, rank]
  std::vector<DeviceTensor> packed_up;  // the same for DecodeAttention; keys that it takes only
  std::vector<DeviceTensor> split_up;   // PackSplitUp of keys that it takes
  DeviceTensor bias, norm;
};

struct DeviceLayer {
  DeviceTensor input_norm, post_norm;  // [hidden]
  DeviceTensor qkv, qkv_bias;          // [q + k width + v width, hidden]; see shared_latents
  DeviceTensor q_norm;                 // [d]
  DeviceProjection k, v;
  bool shared_latents = false;         // v's pages are k's, and qkv has no rows for v
  DeviceTensor o, o_bias;              // [hidden, n_q*d]
  DeviceTensor gate_up, gate_up_bias;  // [2 inter, hidden], gate first
  DeviceTensor down, down_bias;        // [hidden, inter]
  float gated_scale = 1;  // a power of 2 with which rows of down's input fit into the weights' type
};

struct DeviceWeights {
  DType dtype = DType::kBF16;                   // of the matrices
  DeviceTensor embedding, final_norm, lm_head;  // lm_head empty when tied
  std::vector<DeviceLayer> layers;

  const DeviceTensor& head() const { return lm_head ? lm_head : embedding; }
};

// Copies the weights through pinned memory, converted to `dtype` or as they are stored, BF16 as F16
// where it does as well (half_weights.h). Throws Error when the device has too little memory.
DeviceWeights UploadWeights(const Model& model, const CacheLayout& layout,
                            std::optional<DType> dtype, cudaStream_t stream);

}  // namespace palu::cuda
