#include "eval/bench/suite.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/log.h"

namespace palu {
namespace {

constexpr double kGiB = 1 << 30;

std::string Describe(const Workload& w) {
  if (w.phase == Phase::kPrefill) return fmt::format("prefill of {} tokens", w.tokens);
  return fmt::format("decoding at depth {} with batch {}", w.depth, w.batch);
}

Measurement Plan(const BenchModel& model, const Workload& workload) {
  const Cost cost = model.TotalCost(workload);
  const auto tokens = static_cast<double>(workload.tokens * workload.batch);
  return {{}, cost.bytes / tokens, cost.flops / tokens, model.CacheBytes(workload)};
}

SuiteRow RunWorkload(const Workload& workload, int64_t repetitions,
                     std::span<const std::unique_ptr<BenchModel>> models, int64_t memory,
                     const std::function<void()>& on_run) {
  SuiteRow row{workload, {}};
  int64_t together = 0;
  for (const auto& model : models) {
    row.models.push_back(Plan(*model, workload));
    const int64_t bytes = row.models.back().kv_bytes;
    if (bytes <= memory) together += bytes;
    if (bytes > memory) {
      Warn("{}: {} needs a KV cache of {:.1f} GiB, and {:.1f} GiB are free: left out",
           model->name(), Describe(workload), static_cast<double>(bytes) / kGiB,
           static_cast<double>(memory) / kGiB);
    }
  }
  for (int64_t r = 0; r < repetitions; ++r) {
    for (size_t m = 0; m < models.size(); ++m) {
      Measurement& measured = row.models[m];
      BenchModel& model = *models[m];
      if (model.CacheBytes(workload) > memory) continue;
      if (!model.prepared()) model.Prepare(workload);
      const double seconds = model.Time(workload);
      measured.rates.push_back(static_cast<double>(workload.tokens * workload.batch) / seconds);
      measured.kv_bytes = model.used_bytes();
      if (together > memory) model.Release();
      if (on_run) on_run();
    }
  }
  for (const auto& model : models) model->Release();
  return row;
}

}  // namespace

std::vector<int64_t> ParseIntList(std::string_view text, std::string_view option, int64_t low,
                                  int64_t high) {
  std::vector<int64_t> values;
  if (text == "none") return values;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view item = text.substr(begin, end - begin);
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(item.data(), item.data() + item.size(), value);
    Require(!item.empty() && error == std::errc() && stop == item.data() + item.size() &&
                value >= low && value <= high,
            "{}: expected integers from {} to {} separated by commas, found '{}'", option, low,
            high, text);
    values.push_back(value);
    begin = end + 1;
  }
  return values;
}

std::vector<Workload> Workloads(const SuiteOptions& options) {
  std::vector<Workload> workloads;
  for (const int64_t prompt : options.prompts) workloads.push_back(PrefillWorkload(prompt));
  for (const int64_t depth : options.depths) {
    for (const int64_t batch : options.batches) {
      workloads.push_back(DecodeWorkload(depth, options.generate, batch));
    }
  }
  return workloads;
}

double Measurement::min() const { return *std::min_element(rates.begin(), rates.end()); }
double Measurement::max() const { return *std::max_element(rates.begin(), rates.end()); }

double Measurement::median() const {
  std::vector<double> sorted = rates;
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

std::vector<SuiteRow> RunSuite(const SuiteOptions& options,
                               std::span<const std::unique_ptr<BenchModel>> models, int64_t memory,
                               const std::function<void()>& on_run) {
  std::vector<SuiteRow> rows;
  for (const Workload& workload : Workloads(options)) {
    rows.push_back(RunWorkload(workload, options.repetitions, models, memory, on_run));
  }
  return rows;
}

}  // namespace palu
