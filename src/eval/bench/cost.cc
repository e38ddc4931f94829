#include "eval/bench/cost.h"

namespace palu {
namespace {

double Size(const TensorView& matrix) { return matrix ? static_cast<double>(matrix.size()) : 0; }
double Bytes(const TensorView& matrix) { return matrix ? static_cast<double>(matrix.bytes()) : 0; }

double Size(const std::vector<TensorView>& matrices) {
  double sum = 0;
  for (const TensorView& matrix : matrices) sum += Size(matrix);
  return sum;
}
double Bytes(const std::vector<TensorView>& matrices) {
  double sum = 0;
  for (const TensorView& matrix : matrices) sum += Bytes(matrix);
  return sum;
}

// One layer as counted: what depends on the weights only.
struct Layer {
  double weight_bytes = 0;
  double row_parameters = 0;  // applied to every new token
  double key_up = 0;          // parameters of U_k
  double value_up = 0;        // of U_v where it is applied in attention; 0 when fused or dense
  double latent_width = 0;    // summed over query heads: of a value as the cache stores it
};

// Width of the stored values that the query heads read, one after the other.
double LatentWidth(const ModelConfig& config, const ProjectionWeights& v) {
  if (!v.factored()) return static_cast<double>(config.q_size());
  double ranks = 0;
  for (const TensorView& up : v.up) ranks += static_cast<double>(up.cols());
  return ranks * static_cast<double>(config.num_heads) / static_cast<double>(v.up.size());
}

Layer CountLayer(const ModelConfig& config, const LayerWeights& w, bool fused) {
  Layer layer;
  for (const TensorView* matrix :
       {&w.q, &w.k.dense, &w.k.down, &w.v.dense, &w.v.down, &w.gate, &w.up, &w.down}) {
    layer.weight_bytes += Bytes(*matrix);
    layer.row_parameters += Size(*matrix);
  }
  layer.weight_bytes += Bytes(w.k.up);
  layer.key_up = Size(w.k.up);
  layer.latent_width = LatentWidth(config, w.v);
  if (fused) {
    layer.weight_bytes += static_cast<double>(FusedOutputBytes(config, w));
    layer.row_parameters += static_cast<double>(config.hidden_size) * layer.latent_width;
  } else {
    layer.weight_bytes += static_cast<double>(UnfusedOutputBytes(config, w));
    layer.row_parameters += Size(w.o);
    layer.value_up = Size(w.v.up);
  }
  return layer;
}

double AttentionFlops(const ModelConfig& config, const Layer& layer, const ChunkShape& chunk) {
  const auto start = static_cast<double>(chunk.start), count = static_cast<double>(chunk.count);
  const auto q_size = static_cast<double>(config.q_size());
  const double pairs = count * start + count * (count + 1) / 2;
  const double stored = start + count;
  double flops = 2 * q_size * pairs + 2 * layer.key_up * stored;
  if (layer.value_up > 0 && chunk.count > 1) {  // values are rebuilt, then summed
    flops += 2 * q_size * pairs + 2 * layer.value_up * stored;
  } else {  // stored values are summed; U_v, if any, meets the sum of each query head
    flops += 2 * layer.latent_width * pairs +
             2 * layer.value_up * static_cast<double>(config.heads_per_kv()) * count;
  }
  return flops;
}

}  // namespace

Cost CountStep(const Transformer& transformer, const CacheLayout& layout,
               std::span<const ChunkShape> chunks) {
  const ModelConfig& config = transformer.model().config();
  const ModelWeights& weights = transformer.model().weights();
  double tokens = 0, stored = 0;
  for (const ChunkShape& chunk : chunks) {
    tokens += static_cast<double>(chunk.count);
    stored += static_cast<double>(chunk.start + chunk.count);
  }
  const double embedding_row = Bytes(weights.embedding) / static_cast<double>(config.vocab_size);
  Cost cost;
  cost.bytes = tokens * embedding_row + Bytes(weights.lm_head) + stored * layout.bytes_per_token();
  cost.flops = 2 * Size(weights.lm_head) * static_cast<double>(chunks.size());
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const Layer layer =
        CountLayer(config, weights.layers[static_cast<size_t>(l)], transformer.fused(l));
    cost.bytes += layer.weight_bytes;
    cost.flops += 2 * layer.row_parameters * tokens;
    for (const ChunkShape& chunk : chunks) cost.flops += AttentionFlops(config, layer, chunk);
  }
  return cost;
}

}  // namespace palu
