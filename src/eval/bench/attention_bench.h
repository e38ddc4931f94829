// Times decode attention of one layer alone, the forms in turn within each repetition, so that
// whatever the clocks do they do to all of them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/bench/attention_cost.h"
#include "eval/bench/attention_form.h"
#include "tensor/exec.h"

namespace palu {

struct AttentionOptions {
  std::vector<std::pair<std::string, ModelConfig>> models;  // names and shapes
  std::vector<int64_t> contexts, batches;
  std::vector<AttentionForm> forms;  // the first is dense
  int64_t group_size = 4;            // KV heads
  int64_t repetitions = 30;
  // In place of decode steps, prompts of `contexts` tokens over dense keys and values, as the form
  // "prefill"; `forms` does not count.
  bool prefill = false;
};

struct AttentionPoint {
  std::string model;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t context = 0, batch = 0;
};

// Bytes on the device.
struct AttentionMemory {
  int64_t blocks = 0;     // of the pool that are in use
  int64_t mapped = 0;     // that the pool has taken from the device, in slabs
  int64_t device = 0;     // by which the device's free memory shrank when the cache was filled
  int64_t workspace = 0;  // scratch of the kernel
};

enum class AttentionStatus { kMeasured, kDoesNotFit, kUnsupported, kFailed };
std::string_view Name(AttentionStatus status);  // "ok", "does not fit", "unsupported", "failed"

struct AttentionMeasurement {
  std::string form;
  AttentionStatus status = AttentionStatus::kMeasured;
  std::string note;                  // of what failed
  std::vector<double> microseconds;  // of every repetition
  double dense_us = 0;  // median of the dense form in the same rounds; 0: it was not in them
  AttentionCost cost;
  AttentionMemory memory;  // of what does not fit: blocks only, those it would take

  bool measured() const { return status == AttentionStatus::kMeasured; }
  double Quantile(double q) const;  // linear between order statistics
  double median() const { return Quantile(0.5); }
  // Dense over this form; none where either was not measured.
  std::optional<double> speedup() const;
};

struct AttentionRow {
  AttentionPoint point;
  std::vector<AttentionMeasurement> forms;  // as in AttentionOptions
};

// One form of one point, its cache filled and its kernel warm.
class AttentionRun {
 public:
  virtual ~AttentionRun() = default;
  // Microseconds of one step or prompt that finds nothing in the device's cache.
  virtual double Time() = 0;
  virtual AttentionMemory memory() const = 0;
};

class AttentionDevice {
 public:
  virtual ~AttentionDevice() = default;
  virtual int64_t l2_bytes() const = 0;
  virtual int64_t AvailableMemory() const = 0;
  virtual bool Supports(const ModelConfig& one_layer, const CacheLayout& layout) = 0;
  // Throws Error where the device has too little memory.
  virtual std::unique_ptr<AttentionRun> Prepare(const ModelConfig& one_layer,
                                                const CacheLayout& layout, int64_t context,
                                                int64_t batch) = 0;
  // The same for prompts: fp16 queries, keys and values of all tokens, in device memory.
  virtual std::unique_ptr<AttentionRun> PreparePrefill(const ModelConfig& one_layer, int64_t tokens,
                                                       int64_t batch) = 0;
};

// Throws Error for a device that is no GPU and in a build without the CUDA backend.
std::unique_ptr<AttentionDevice> MakeAttentionDevice(const Exec& exec);

// Which forms are in memory together: indices of `bytes` (nullopt: left out), none of more than
// `memory`. The first form is in every pack that has room for it, so that it is timed beside each.
std::vector<std::vector<size_t>> PackForms(std::span<const std::optional<int64_t>> bytes,
                                           int64_t memory);

// on_point is called after every point (models * contexts * batches).
std::vector<AttentionRow> RunAttention(const AttentionOptions& options, AttentionDevice& device,
                                       const std::function<void()>& on_point = {});

namespace cuda {
std::unique_ptr<AttentionDevice> MakeAttentionDeviceOf(const Exec& exec);
}  // namespace cuda

}  // namespace palu
