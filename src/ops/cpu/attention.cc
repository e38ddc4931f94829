#include "ops/attention.h"

#include <algorithm>

#include "ops/cpu/attention_decode.h"
#include "ops/cpu/attention_prefill.h"
#include "ops/parallel.h"

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

// Multiply-adds of all tasks, roughly (ops/parallel.h).
struct DecodeWork {
  int64_t splits = 0, finish = 0;

  explicit DecodeWork(std::span<const DecodeTask> tasks) {
    for (const DecodeTask& task : tasks) {
      const AttentionLayer& layer = task.unit.layer;
      const int64_t d = layer.head_dim, rows = task.unit.rows();
      const int64_t keys = task.unit.chunk.start + task.unit.chunk.count;
      const int64_t key_width = layer.k.pages.OfHead(task.unit.first_head).width;
      const int64_t rebuild = layer.k.pages.latent ? task.unit.heads() * d * key_width : 0;
      splits += keys * (rebuild + rows * (d + task.width));
      const bool up = layer.v.pages.latent && !layer.fused_values;
      finish += rows * task.width * (task.splits + (up ? d : 0));
    }
  }
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
    const size_t first = tasks.size();
    for (int64_t head = 0; head < layer.kv_heads; head += heads) {
      const cpu::DecodeUnit unit{layer, chunk, recent, head};
      tasks.push_back({unit, splits, unit.width(), rows, elements});
      rows += splits * unit.rows();
      elements += splits * unit.rows() * unit.width();
    }
    // All heads of a split one after the other: they share its cosines and sines.
    for (int64_t split = 0; split < splits; ++split) {
      for (size_t t = first; t < tasks.size(); ++t) parts.emplace_back(t, split);
    }
  }
  if (tasks.empty()) return;
  workspace.partials.Resize(elements);
  workspace.partial_states.resize(static_cast<size_t>(rows));
  const auto partial = [&](const DecodeTask& task) {
    return MatrixView<float>(workspace.partials.data() + task.offset,
                             task.splits * task.unit.rows(), task.width);
  };
  // Short sequences and small heads are done before another thread is awake.
  const auto run_part = [&](int64_t p, int worker) {
    const auto [index, split] = parts[static_cast<size_t>(p)];
    const DecodeTask& task = tasks[index];
    const int64_t unit_rows = task.unit.rows();
    cpu::DecodeSplit(task.unit, split, q, workspace.workers[static_cast<size_t>(worker)],
                     partial(task).RowRange(split * unit_rows, unit_rows),
                     &workspace.partial_states[static_cast<size_t>(task.row + split * unit_rows)]);
  };
  const DecodeWork work(tasks);
  ForWorkerRanges(exec, std::ssize(parts), work.splits / std::ssize(parts),
                  [&](int64_t begin, int64_t end, int worker) {
                    for (int64_t p = begin; p < end; ++p) run_part(p, worker);
                  });
  ForRanges(exec, std::ssize(tasks), work.finish / std::ssize(tasks),
            [&](int64_t begin, int64_t end) {
              for (int64_t t = begin; t < end; ++t) {
                const DecodeTask& task = tasks[static_cast<size_t>(t)];
                cpu::FinishDecode(task.unit, task.splits, partial(task),
                                  &workspace.partial_states[static_cast<size_t>(task.row)], out);
              }
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
