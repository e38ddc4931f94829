// Generation for many requests at once over one model and one cache.
//
// A step is a transaction: plan (which chunks), reserve (their blocks; when the cache is full the
// youngest request gives its blocks back and starts over later), execute (one forward pass), commit
// (sampled tokens, finished requests). A request that fails leaves the others untouched.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/sampler.h"
#include "runtime/scheduler.h"
#include "runtime/transformer.h"

namespace palu {

struct EngineOptions {
  CacheFormat cache_format;
  int64_t max_cache_bytes = 0;  // 0: no bound
  int64_t max_sequences = 256;  // that run at once; the others wait
  SchedulerLimits limits;
  TransformerOptions transformer;
};

struct GenerationRequest {
  std::vector<TokenId> prompt;  // not empty
  int64_t max_tokens = 0;       // generated at most
  SamplingParams sampling;
  std::vector<TokenId> stop;  // end of text: these end the request and are not part of its output
};

enum class FinishReason { kRunning, kStop, kLength, kCacheFull };

std::string_view Name(FinishReason reason);

using RequestId = int64_t;

class Engine {
 public:
  // Called with every generated token, in order.
  using OnToken = std::function<void(RequestId, TokenId)>;

  Engine(const Model& model, Exec exec, const EngineOptions& options = {});

  // Throws Error for an empty prompt, unknown tokens or sampling parameters out of range.
  RequestId Submit(const GenerationRequest& request);
  // Ends a request and frees its blocks; unknown ids are ignored.
  void Cancel(RequestId id);

  // One step; false when there is nothing to do.
  bool Step(const OnToken& on_token = {});
  // Steps until every request is finished, or Cancelled is thrown.
  void Run(const OnToken& on_token = {});

  struct Result {
    std::vector<TokenId> tokens;
    FinishReason reason = FinishReason::kRunning;
  };
  // What a request has produced so far; throws Error for an unknown id.
  const Result& result(RequestId id) const;

  struct Stats {
    int64_t steps = 0;
    int64_t prefill_tokens = 0, decode_tokens = 0;  // of steps with and without prompts
    double prefill_seconds = 0, decode_seconds = 0;
    int64_t preemptions = 0;
    int64_t peak_cache_bytes = 0;  // taken from the pool
  };
  const Stats& stats() const { return stats_; }
  const KvCache& cache() const { return cache_; }
  const Transformer& transformer() const { return transformer_; }

 private:
  struct Running {
    RequestId id;
    GenerationRequest request;
    std::vector<TokenId> tokens;  // prompt and generated
    CachedSequence sequence;
    Sampler sampler;
  };

  void Admit();
  std::vector<PlannedChunk> PlanAndReserve();
  void MakeRoom();
  void Execute(const std::vector<PlannedChunk>& plan);
  static bool Prefilling(const Running& r);
  bool WantsToken(const Running& r) const;  // after the step's pass
  void CommitTokens(const std::vector<PlannedChunk>& plan, const OnToken& on_token);
  void Finish(size_t index, FinishReason reason);

  const Model& model_;
  EngineOptions options_;
  KvCache cache_;
  Transformer transformer_;
  RequestId next_id_ = 0;
  std::vector<std::unique_ptr<Running>> waiting_, running_;  // in order of arrival
  std::map<RequestId, Result> results_;
  std::vector<TokenId> sampled_;  // of the step's chunks that want a token, in order
  Stats stats_;
};

}  // namespace palu
