// Models with random weights: real shapes without a download.
#include <algorithm>
#include <cstring>

#include "base/cancel.h"
#include "base/rng.h"
#include "model/weights.h"
#include "ops/convert.h"
#include "ops/latent_order.h"

namespace palu {
namespace {

constexpr float kBound = 0.0346f;           // uniform in +-kBound: standard deviation 0.02
constexpr int64_t kTaskElements = 1 << 18;  // about a millisecond

// Zeros where the rotary basis has them, in the tensors that weights of keys' U have been bound to.
void ClearBeyondRotaryBounds(const ModelConfig& config, const ModelWeights& weights) {
  const KvCompression& compression = *config.compression;
  const RotaryRows rows{config.head_dim, compression.rotary_pairs, compression.quantization.bits};
  for (const LayerWeights& layer : weights.layers) {
    for (const TensorView& up : layer.k.up) {
      const int64_t heads = up.rows() / config.head_dim, rank = up.cols();
      const std::vector<int64_t> bounds = RotaryBounds(rows, heads, rank);
      const size_t size = SizeOf(up.dtype);
      auto* bytes = static_cast<std::byte*>(const_cast<void*>(up.data));
      for (int64_t h = 0; h < heads; ++h) {
        const std::vector<int64_t> beyond =
            LatentsBeyond(rows.bits, rank, bounds[static_cast<size_t>(h)]);
        for (int64_t i = 0; i < rows.count(); ++i) {
          for (const int64_t latent : beyond) {
            const int64_t at = rows.Row(h, i) * rank + latent;
            std::memset(bytes + static_cast<size_t>(at) * size, 0, size);
          }
        }
      }
    }
  }
}

}  // namespace

Model Model::Random(const ModelConfig& config, DType dtype, uint64_t seed, ThreadPool* pool) {
  Model model;
  model.path_ = "(random weights)";
  model.config_ = config;
  uint64_t stream = 0;
  const std::vector<WeightSlot> table = WeightTable(config, *model.weights_);
  for (const WeightSlot& slot : table) model.BindRandom(slot, dtype, seed, stream++, pool);
  model.RememberViews(table);
  if (config.tied_embeddings) model.weights_->lm_head = model.weights_->embedding;
  return model;
}

Model Model::RandomCompressed(const Model& dense, const KvCompression& compression, uint64_t seed,
                              ThreadPool* pool) {
  Model model;
  uint64_t stream = 0;
  model.BindCompressed(dense, compression, [&](const WeightSlot& slot, const TensorView& same) {
    if (same) {
      *slot.view = same;
    } else {
      model.BindRandom(slot, dense.weights().layers.at(0).q.dtype, seed, stream++, pool);
    }
  });
  if (compression.rotary_pairs > 0) ClearBeyondRotaryBounds(model.config_, *model.weights_);
  return model;
}

// Every row has its own stream, so the rows can be filled in any order.
void Model::BindRandom(const WeightSlot& slot, DType dtype, uint64_t seed, uint64_t stream,
                       ThreadPool* pool) {
  OwnedTensor tensor(dtype, slot.shape);
  const bool norm = slot.weight_class == WeightClass::kNorm;
  const int64_t cols = std::max<int64_t>(1, slot.shape.back());
  const int64_t rows = NumElements(slot.shape) / cols;
  const int64_t rows_per_task = std::max<int64_t>(1, kTaskElements / cols);
  const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  const auto fill = [&](int64_t task, int) {
    ThrowIfCancelled();
    std::vector<float> row(static_cast<size_t>(cols), 1.0f);
    const int64_t end = std::min(rows, (task + 1) * rows_per_task);
    for (int64_t r = task * rows_per_task; r < end; ++r) {
      if (!norm) {
        Rng(seed, (stream << 32) + static_cast<uint64_t>(r)).FillUniform(row, -kBound, kBound);
      }
      FromFloat(row.data(), cols, dtype,
                tensor.data() + r * cols * static_cast<int64_t>(SizeOf(dtype)));
    }
  };
  if (pool) {
    pool->ParallelFor(tasks, fill);
  } else {
    for (int64_t task = 0; task < tasks; ++task) fill(task, 0);
  }
  *slot.view = tensor.View();
  owned_.push_back(std::move(tensor));
}

}  // namespace palu
