#include "eval/bench/cuda/attention_layer.h"

#include <utility>

namespace palu::cuda {
namespace {

// Attention does not see these; small ones cost nothing.
constexpr int64_t kUnseenSize = 64;

DeviceWeights RandomWeights(ModelConfig config, const CacheLayout& layout, ThreadPool& pool,
                            cudaStream_t stream) {
  config.hidden_size = config.intermediate_size = config.vocab_size = kUnseenSize;
  const auto compression = std::exchange(config.compression, {});
  const Model dense = Model::Random(config, DType::kF16, 1, &pool);
  if (!compression) return UploadWeights(dense, layout, std::nullopt, stream);
  return UploadWeights(Model::RandomCompressed(dense, *compression, 2, &pool), layout, std::nullopt,
                       stream);
}

}  // namespace

AttentionLayer::AttentionLayer(const ModelConfig& one_layer, const CacheLayout& layout,
                               ThreadPool& pool, cudaStream_t stream)
    : rope_(one_layer.rope, one_layer.head_dim, one_layer.heads_per_kv(),
            one_layer.split_tolerance(), stream),
      weights_(RandomWeights(one_layer, layout, pool, stream)),
      view_(MakeAttentionView(one_layer, weights_.layers.front(), rope_.view(false), rope_.split(),
                              false)) {
  Check(cudaStreamSynchronize(stream), "running on the device");
}

}  // namespace palu::cuda
