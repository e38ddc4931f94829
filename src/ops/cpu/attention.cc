#include "ops/attention.h"

#include <algorithm>

#include "ops/cpu/attention_decode.h"
#include "ops/cpu/attention_prefill.h"

namespace palu {
namespace {

// Query rows of one KV head up to which streaming over stored rows beats building GEMM tiles.
constexpr int64_t kMaxDecodeRows = 16;
// Query tokens of a prefill task: large enough to share rebuilt keys, small enough to balance.
constexpr int64_t kPrefillTokens = 512;

// Decoding has one window of recent tokens for all rows.
bool IsDecode(const AttentionLayer& layer, const QueryChunk& chunk, const RecentRows& recent) {
  return chunk.count * layer.heads_per_kv() <= kMaxDecodeRows &&
         (recent.tokens == 0 || chunk.count == 1);
}

struct PrefillTask {
  const QueryChunk* chunk;
  int64_t kv_head, begin, count;
};

void RunPrefill(const Exec& exec, const AttentionLayer& layer, std::span<const QueryChunk> chunks,
                MatrixView<const float> q, FreshRows fresh, const RecentRows& recent,
                AttentionWorkspace& workspace, MatrixView<float> out) {
  std::vector<PrefillTask> tasks;
  for (const QueryChunk& chunk : chunks) {
    if (IsDecode(layer, chunk, recent)) continue;
    for (int64_t head = 0; head < layer.kv_heads; ++head) {
      for (int64_t begin = 0; begin < chunk.count; begin += kPrefillTokens) {
        tasks.push_back({&chunk, head, begin, std::min(kPrefillTokens, chunk.count - begin)});
      }
    }
  }
  // Later queries see more keys: the long tasks go first.
  std::stable_sort(tasks.begin(), tasks.end(), [](const PrefillTask& a, const PrefillTask& b) {
    return a.chunk->start + a.begin > b.chunk->start + b.begin;
  });
  exec.pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t t, int worker) {
    const PrefillTask& task = tasks[static_cast<size_t>(t)];
    cpu::PrefillHead(layer, *task.chunk, task.kv_head, task.begin, task.count, q, fresh, recent,
                     workspace.workers[static_cast<size_t>(worker)], out);
  });
}

struct DecodeTask {
  cpu::DecodeUnit unit;
  int64_t splits, width;
  int64_t row;     // first of its partial rows: splits * unit rows
  int64_t offset;  // of its partial results
};

void RunDecode(const Exec& exec, const AttentionLayer& layer, std::span<const QueryChunk> chunks,
               MatrixView<const float> q, const RecentRows& recent, AttentionWorkspace& workspace,
               MatrixView<float> out) {
  std::vector<DecodeTask> tasks;
  std::vector<std::pair<size_t, int64_t>> parts;  // task, split
  int64_t rows = 0, elements = 0;
  for (const QueryChunk& chunk : chunks) {
    if (!IsDecode(layer, chunk, recent)) continue;
    const int64_t keys = chunk.start + chunk.count;
    const int64_t splits = (keys + cpu::kDecodeSplit - 1) / cpu::kDecodeSplit;
    const int64_t heads = cpu::DecodeUnit::HeadsPerUnit(layer);
    for (int64_t head = 0; head < layer.kv_heads; head += heads) {
      const cpu::DecodeUnit unit{layer, chunk, recent, head};
      for (int64_t s = 0; s < splits; ++s) parts.emplace_back(tasks.size(), s);
      tasks.push_back({unit, splits, unit.width(), rows, elements});
      rows += splits * unit.rows();
      elements += splits * unit.rows() * unit.width();
    }
  }
  if (tasks.empty()) return;
  workspace.partials.Resize(elements);
  workspace.partial_states.resize(static_cast<size_t>(rows));
  const auto partial = [&](const DecodeTask& task) {
    return MatrixView<float>(workspace.partials.data() + task.offset,
                             task.splits * task.unit.rows(), task.width);
  };
  exec.pool.ParallelFor(static_cast<int64_t>(parts.size()), [&](int64_t p, int worker) {
    const auto [index, split] = parts[static_cast<size_t>(p)];
    const DecodeTask& task = tasks[index];
    const int64_t unit_rows = task.unit.rows();
    cpu::DecodeSplit(task.unit, split, q, workspace.workers[static_cast<size_t>(worker)],
                     partial(task).RowRange(split * unit_rows, unit_rows),
                     &workspace.partial_states[static_cast<size_t>(task.row + split * unit_rows)]);
  });
  exec.pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t t, int) {
    const DecodeTask& task = tasks[static_cast<size_t>(t)];
    cpu::FinishDecode(task.unit, task.splits, partial(task),
                      &workspace.partial_states[static_cast<size_t>(task.row)], out);
  });
}

}  // namespace

int64_t AttentionLayer::output_width(int64_t head) const {
  return fused_values ? v.pages.OfHead(head / heads_per_kv()).width : head_dim;
}

int64_t AttentionLayer::output_width() const {
  int64_t sum = 0;
  for (int64_t h = 0; h < heads; ++h) sum += output_width(h);
  return sum;
}

void PagedAttention(const Exec& exec, const AttentionLayer& layer,
                    std::span<const QueryChunk> chunks, MatrixView<const float> q, FreshRows fresh,
                    const RecentRows& recent, AttentionWorkspace& workspace,
                    MatrixView<float> out) {
  workspace.workers.resize(static_cast<size_t>(exec.pool.size()));
  RunPrefill(exec, layer, chunks, q, fresh, recent, workspace, out);
  RunDecode(exec, layer, chunks, q, recent, workspace, out);
}

}  // namespace palu
