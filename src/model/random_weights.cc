// Models with random weights: real shapes without a download.
#include <algorithm>

#include "base/cancel.h"
#include "base/rng.h"
#include "model/weights.h"
#include "ops/convert.h"

namespace palu {
namespace {

constexpr float kBound = 0.0346f;           // uniform in +-kBound: standard deviation 0.02
constexpr int64_t kTaskElements = 1 << 18;  // about a millisecond

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
