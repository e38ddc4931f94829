// One point of the benchmark and one model that runs it.
#pragma once

#include <string>
#include <vector>

#include "eval/bench/cost.h"
#include "runtime/kv_cache.h"
#include "runtime/transformer.h"

namespace palu {

enum class Phase { kPrefill, kDecode };

// `batch` sequences whose cache holds `depth` tokens take `tokens` more each, `chunk` per step.
struct Workload {
  Phase phase = Phase::kPrefill;
  int64_t depth = 0;
  int64_t tokens = 0;
  int64_t batch = 1;
  int64_t chunk = 1;
};

Workload PrefillWorkload(int64_t prompt);
Workload DecodeWorkload(int64_t depth, int64_t generate, int64_t batch);

class BenchModel {
 public:
  // The model outlives this object.
  BenchModel(std::string name, const Model& model, Exec exec, const CacheFormat& format,
             TransformerOptions options = {});

  const std::string& name() const { return name_; }
  const Model& model() const { return transformer_.model(); }
  const CacheLayout& layout() const { return layout_; }
  std::string kernel() const { return transformer_.kernel(); }

  // Bytes of cache when the workload ends.
  int64_t CacheBytes(const Workload& workload) const;
  // Bytes and operations of all its steps.
  Cost TotalCost(const Workload& workload) const;

  // Fills a cache for the workload with random latents and runs one step, so that what happens only
  // once (page faults, buffers, the table of angles) is not timed.
  void Prepare(const Workload& workload);
  bool prepared() const { return cache_ != nullptr; }
  // Seconds for the prepared workload. The cache ends as it began.
  double Time(const Workload& workload);
  // Bytes of cache taken from the pool at the end of the last run.
  int64_t used_bytes() const { return used_bytes_; }
  // Returns the cache's memory to the system.
  void Release();

 private:
  // Takes `count` tokens more in every sequence and computes the logits that would be sampled.
  void Step(int64_t count);
  void Rewind(int64_t depth);

  std::string name_;
  Exec exec_;
  CacheLayout layout_;
  Transformer transformer_;
  std::unique_ptr<KvCache> cache_;
  std::vector<CachedSequence> sequences_;  // destroyed before the cache
  int64_t used_bytes_ = 0;
};

}  // namespace palu
