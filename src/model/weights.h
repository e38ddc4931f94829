// The one table of a model's weights: every tensor's name, shape, class and where it is bound.
// Loader, compressor, random initialiser and `inspect` all walk it.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "io/safetensors.h"
#include "model/config.h"
#include "tensor/tensor.h"

namespace palu {

// Key or value projection: one dense matrix, or per group of KV heads W_i = U_i A_i.
struct ProjectionWeights {
  TensorView dense;            // [n_kv*d, hidden]; null when factored
  TensorView down;             // A: [sum of ranks, hidden], groups stacked; null for values that
                               // share the keys' latents
  TensorView down_bias;        // [sum of ranks], part of a latent as stored; null when none
  std::vector<TensorView> up;  // U_i: [g*d, rank_i]
  TensorView bias;             // [n_kv*d], added after reconstruction; null when none

  bool factored() const { return !up.empty(); }
};

struct LayerWeights {
  TensorView input_norm;  // [hidden]
  TensorView q, q_bias;   // [n_q*d, hidden], [n_q*d]
  ProjectionWeights k, v;
  TensorView q_norm, k_norm;  // [d], Qwen3
  TensorView o, o_bias;       // [hidden, n_q*d], [hidden]
  TensorView post_norm;       // [hidden]
  TensorView gate, up, down;  // [inter, hidden], [inter, hidden], [hidden, inter]
  TensorView gate_bias, up_bias, down_bias;
};

struct ModelWeights {
  TensorView embedding;  // [vocab, hidden]
  std::vector<LayerWeights> layers;
  TensorView final_norm;  // [hidden]
  TensorView lm_head;     // [vocab, hidden]; the embedding when tied
};

// What `inspect` adds up.
enum class WeightClass { kEmbedding, kHead, kQuery, kKey, kValue, kOutput, kMlp, kNorm };

std::string_view Name(WeightClass weight_class);

struct WeightSlot {
  std::string name;
  Shape shape;
  WeightClass weight_class;
  TensorView* view;  // where the tensor is bound
};

// Sizes `weights` for `config` and lists its slots in file order. A tied head has no slot.
std::vector<WeightSlot> WeightTable(const ModelConfig& config, ModelWeights& weights);

// A loaded model: configuration, weights, and whatever keeps their memory alive. Move only.
class Model {
 public:
  // Reads DIR/config.json and maps its safetensors. Throws Error naming a tensor that is missing or
  // whose shape differs from the configuration's.
  static Model Load(const std::filesystem::path& directory);

  // Uniformly distributed weights (standard deviation 0.02, norms 1) in `dtype`, the same for the
  // same seed on any number of threads; without a pool on the calling one. For tests and for timing
  // real shapes without a download.
  static Model Random(const ModelConfig& config, DType dtype, uint64_t seed,
                      ThreadPool* pool = nullptr);

  // `dense` as `compression` has it: factor(name) gives the tensors that differ, and a null view
  // for those of `dense`. All are views into what must outlive the result. Throws Error naming a
  // tensor that is missing or of another shape.
  static Model Compressed(const Model& dense, const KvCompression& compression,
                          const std::function<TensorView(const std::string& name)>& factor);

  // `dense` with random factors where `compression` has ranks, in the dense projections' type.
  // Every other tensor is a view into `dense`, which must outlive the result.
  static Model RandomCompressed(const Model& dense, const KvCompression& compression, uint64_t seed,
                                ThreadPool* pool = nullptr);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return *weights_; }
  const std::filesystem::path& path() const { return path_; }

  // Every bound tensor in file order; a tied head appears once, as the embedding.
  const std::vector<std::pair<WeightClass, TensorView>>& views() const { return views_; }

  // Bytes of the weights of each class, as stored.
  std::vector<std::pair<WeightClass, int64_t>> BytesByClass() const;

 private:
  Model() : weights_(std::make_unique<ModelWeights>()) {}
  // Calls bind for every tensor, with what has the same name and shape in `dense`, if any.
  void BindCompressed(const Model& dense, const KvCompression& compression,
                      const std::function<void(const WeightSlot&, const TensorView& same)>& bind);
  // Joins the bias that the published Palu code keeps in one part per group.
  void BindPublishedBias(const std::string& projection, ProjectionWeights& weights);
  void RememberViews(const std::vector<WeightSlot>& table);
  // Allocates, fills and binds one tensor; `stream` tells the tensors of a seed apart.
  void BindRandom(const WeightSlot& slot, DType dtype, uint64_t seed, uint64_t stream,
                  ThreadPool* pool);

  std::filesystem::path path_;
  ModelConfig config_;
  TensorStore store_;
  std::vector<OwnedTensor> owned_;
  std::unique_ptr<ModelWeights> weights_;
  std::vector<std::pair<WeightClass, TensorView>> views_;  // every bound tensor
};

}  // namespace palu
