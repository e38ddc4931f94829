// Runs every workload on every model, the models in turn within each repetition, so that whatever
// disturbs the machine disturbs all of them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/bench/machine.h"
#include "eval/bench/workload.h"

namespace palu {

// "512,4096" -> {512, 4096}; "none" -> {}. Throws Error naming `option` for anything that is not a
// list of integers in [low, high].
std::vector<int64_t> ParseIntList(std::string_view text, std::string_view option, int64_t low,
                                  int64_t high);

struct SuiteOptions {
  std::vector<int64_t> prompts, depths, batches;
  int64_t generate = 128;
  int64_t repetitions = 3;
};

// Prompts first, then every depth with every batch.
std::vector<Workload> Workloads(const SuiteOptions& options);

// One model on one workload.
struct Measurement {
  std::vector<double> rates;  // tokens per second, a value per repetition; empty: did not fit
  double bytes_per_token = 0;
  double flops_per_token = 0;
  int64_t kv_bytes = 0;  // taken from the pool; when it did not fit, what it would take

  bool fits() const { return !rates.empty(); }
  double median() const;
  double min() const;
  double max() const;
};

struct SuiteRow {
  Workload workload;
  std::vector<Measurement> models;  // in the order of the models
};

// `memory`: bytes the caches may take. Caches that do not fit together are filled anew for every
// run; one that does not fit alone is left out, with a warning. on_run is called after every timed
// run (Workloads(options).size() * models * repetitions in all, fewer when some did not fit).
std::vector<SuiteRow> RunSuite(const SuiteOptions& options,
                               std::span<const std::unique_ptr<BenchModel>> models, int64_t memory,
                               const std::function<void()>& on_run = {});

}  // namespace palu
