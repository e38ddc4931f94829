#include "eval/bench/attention_bench.h"

#include <algorithm>
#include <cmath>

#include "base/cancel.h"
#include "base/error.h"

namespace palu {
namespace {

// One form of a point as planned.
struct Plan {
  ModelConfig config;
  CacheLayout layout;
};

AttentionMeasurement Measure(const Plan& plan, const AttentionForm& form,
                             const AttentionPoint& point, AttentionDevice& device, int64_t memory) {
  AttentionMeasurement m;
  m.form = form.name;
  m.cost = CountAttention(plan.config, plan.layout, point.context, point.batch);
  m.memory.blocks = point.batch * BlocksFor(point.context) * plan.layout.block_bytes();
  if (!device.Supports(plan.config, plan.layout)) {
    m.status = AttentionStatus::kUnsupported;
  } else if (m.memory.blocks > memory) {
    m.status = AttentionStatus::kDoesNotFit;
  }
  return m;
}

void MarkFailed(AttentionMeasurement& m, const Error& error) {
  if (!m.microseconds.empty()) return;  // dense, timed in an earlier pack
  m.status = AttentionStatus::kFailed;
  m.note = error.what();
}

using Runs = std::vector<std::unique_ptr<AttentionRun>>;

// The forms of a pack on the device, in its order; null where that failed.
Runs PreparePack(const std::vector<size_t>& pack, const std::vector<Plan>& plans,
                 AttentionDevice& device, AttentionRow& row) {
  Runs runs;
  for (const size_t form : pack) {
    const Plan& plan = plans[form];
    try {
      runs.push_back(device.Prepare(plan.config, plan.layout, row.point.context, row.point.batch));
    } catch (const Error& error) {
      runs.push_back(nullptr);
      MarkFailed(row.forms[form], error);
    }
  }
  return runs;
}

void RunPack(const std::vector<size_t>& pack, const std::vector<Plan>& plans, int64_t repetitions,
             AttentionDevice& device, AttentionRow& row) {
  Runs runs = PreparePack(pack, plans, device, row);
  std::vector<AttentionMeasurement> timed(pack.size());
  for (int64_t r = 0; r < repetitions; ++r) {
    ThrowIfCancelled();
    for (size_t i = 0; i < pack.size(); ++i) {
      try {
        if (runs[i]) timed[i].microseconds.push_back(runs[i]->Time());
      } catch (const Error& error) {
        runs[i].reset();
        MarkFailed(row.forms[pack[i]], error);
      }
    }
  }
  const bool beside_dense = pack.front() == 0 && runs.front();
  const double dense_us = beside_dense ? timed.front().median() : 0;
  for (size_t i = 0; i < pack.size(); ++i) {
    AttentionMeasurement& m = row.forms[pack[i]];
    if (!runs[i] || !m.microseconds.empty()) continue;  // dense keeps the first pack's times
    m.status = AttentionStatus::kMeasured;
    m.note.clear();
    m.microseconds = std::move(timed[i].microseconds);
    m.dense_us = dense_us;
    m.memory = runs[i]->memory();
  }
}

AttentionRow RunPoint(const AttentionOptions& options, const ModelConfig& model,
                      const AttentionPoint& point, AttentionDevice& device) {
  AttentionRow row{point, {}};
  const int64_t memory = device.AvailableMemory() / 20 * 19;  // the rest: weights, scratch, slabs
  std::vector<Plan> plans;
  std::vector<std::optional<int64_t>> bytes;
  for (const AttentionForm& form : options.forms) {
    const ModelConfig config = OneLayer(model, form, options.group_size);
    plans.push_back({config, LayoutOf(config, form)});
    const AttentionMeasurement& m =
        row.forms.emplace_back(Measure(plans.back(), form, point, device, memory));
    bytes.push_back(m.measured() ? std::optional(m.memory.blocks) : std::nullopt);
  }
  for (const auto& pack : PackForms(bytes, memory)) {
    RunPack(pack, plans, options.repetitions, device, row);
  }
  return row;
}

AttentionRow RunPrefillPoint(const AttentionOptions& options, const ModelConfig& model,
                             const AttentionPoint& point, AttentionDevice& device) {
  const ModelConfig one_layer = OneLayer(model, {.name = "dense"}, options.group_size);
  AttentionMeasurement m;
  m.form = "prefill";
  m.cost = CountPrefill(one_layer, point.context, point.batch);
  try {
    const auto run = device.PreparePrefill(one_layer, point.context, point.batch);
    for (int64_t r = 0; r < options.repetitions; ++r) {
      ThrowIfCancelled();
      m.microseconds.push_back(run->Time());
    }
    m.memory = run->memory();
  } catch (const Error& error) {
    m.microseconds.clear();
    MarkFailed(m, error);
  }
  return {point, {m}};
}

}  // namespace

std::string_view Name(AttentionStatus status) {
  switch (status) {
    case AttentionStatus::kMeasured:
      return "ok";
    case AttentionStatus::kDoesNotFit:
      return "does not fit";
    case AttentionStatus::kUnsupported:
      return "unsupported";
    case AttentionStatus::kFailed:
      return "failed";
  }
  return "";
}

double AttentionMeasurement::Quantile(double q) const {
  if (microseconds.empty()) return 0;
  std::vector<double> sorted = microseconds;
  std::sort(sorted.begin(), sorted.end());
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return std::lerp(sorted[low], sorted[high], at - std::floor(at));
}

std::optional<double> AttentionMeasurement::speedup() const {
  if (!measured() || dense_us <= 0) return std::nullopt;
  return dense_us / median();
}

std::unique_ptr<AttentionDevice> MakeAttentionDevice(const Exec& exec) {
  Require(exec.device.kind == Device::Kind::kCuda,
          "attention alone is timed on a GPU: give --device cuda");
  return cuda::MakeAttentionDeviceOf(exec);
}

std::vector<std::vector<size_t>> PackForms(std::span<const std::optional<int64_t>> bytes,
                                           int64_t memory) {
  std::vector<std::vector<size_t>> packs;
  const std::optional<int64_t> dense = bytes[0];
  for (const bool beside_dense : {true, false}) {
    std::vector<size_t> pack;
    int64_t used = 0;
    for (size_t i = 1; i < bytes.size(); ++i) {
      if (!bytes[i] || (dense && *dense + *bytes[i] <= memory) != beside_dense) continue;
      if (pack.empty() || used + *bytes[i] > memory) {
        if (!pack.empty()) packs.push_back(pack);
        pack = beside_dense ? std::vector<size_t>{0} : std::vector<size_t>{};
        used = beside_dense ? *dense : 0;
      }
      pack.push_back(i);
      used += *bytes[i];
    }
    if (!pack.empty()) packs.push_back(pack);
    if (beside_dense && dense && packs.empty()) packs.push_back({0});
  }
  return packs;
}

std::vector<AttentionRow> RunAttention(const AttentionOptions& options, AttentionDevice& device,
                                       const std::function<void()>& on_point) {
  std::vector<AttentionRow> rows;
  for (const auto& [name, model] : options.models) {
    for (const int64_t context : options.contexts) {
      for (const int64_t batch : options.batches) {
        const AttentionPoint point{name,           model.num_heads, model.num_kv_heads,
                                   model.head_dim, context,         batch};
        rows.push_back(options.prefill ? RunPrefillPoint(options, model, point, device)
                                       : RunPoint(options, model, point, device));
        if (on_point) on_point();
      }
    }
  }
  return rows;
}

}  // namespace palu
