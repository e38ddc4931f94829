#include "runtime/engine.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "base/cancel.h"
#include "base/error.h"

namespace palu {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string_view Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kRunning:
      return "running";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCacheFull:
      return "cache_full";
  }
  return "?";
}

Engine::Engine(const Model& model, Exec exec, const EngineOptions& options)
    : model_(model),
      options_(options),
      cache_(model.config(), options.cache_format, options.max_cache_bytes, exec.device),
      transformer_(model, cache_.layout(), exec, options.transformer) {
  options_.limits.fixed_chunks |= exec.deterministic;
}

RequestId Engine::Submit(const GenerationRequest& request) {
  Require(!request.prompt.empty(), "the prompt has no tokens: give at least one");
  for (const TokenId id : request.prompt) {
    Require(id >= 0 && id < model_.config().vocab_size,
            "prompt: expected token ids in [0, {}), found {}", model_.config().vocab_size, id);
  }
  Require(request.max_tokens >= 0, "max-tokens: expected 0 or more, found {}", request.max_tokens);
  Validate(request.sampling);
  const RequestId id = next_id_++;
  results_[id] = {};
  waiting_.push_back(std::make_unique<Running>(
      Running{id, request, request.prompt, cache_.NewSequence(), Sampler(request.sampling)}));
  return id;
}

void Engine::Cancel(RequestId id) {
  for (auto* list : {&waiting_, &running_}) {
    std::erase_if(*list, [&](const auto& r) { return r->id == id; });
  }
}

const Engine::Result& Engine::result(RequestId id) const {
  const auto found = results_.find(id);
  Require(found != results_.end(), "no request has the id {}", id);
  return found->second;
}

void Engine::Run(const OnToken& on_token) {
  while (Step(on_token)) ThrowIfCancelled();
}

bool Engine::Step(const OnToken& on_token) {
  Admit();
  const std::vector<PlannedChunk> plan = PlanAndReserve();
  if (plan.empty()) return !waiting_.empty() || !running_.empty();
  Execute(plan);
  CommitTokens(plan, on_token);
  return true;
}

void Engine::Admit() {
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < options_.max_sequences) {
    const auto tokens = static_cast<int64_t>(waiting_.front()->tokens.size());
    if (!running_.empty() && BlocksFor(tokens + 1) > cache_.pool().blocks_available()) return;
    running_.push_back(std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
  }
}

std::vector<PlannedChunk> Engine::PlanAndReserve() {
  for (;;) {
    std::vector<SequenceState> snapshot;
    for (const auto& r : running_) {
      snapshot.push_back({static_cast<int64_t>(r->tokens.size()),
                          static_cast<int64_t>(r->request.prompt.size()), r->sequence.length()});
    }
    const std::vector<PlannedChunk> plan = PlanStep(snapshot, options_.limits);
    bool reserved = true;
    for (const PlannedChunk& chunk : plan) {
      CachedSequence& sequence = running_[chunk.sequence]->sequence;
      const int64_t blocks =
          BlocksFor(sequence.length() + chunk.count) - BlocksFor(sequence.length());
      if (blocks > cache_.pool().blocks_available() + sequence.spare_blocks()) {
        MakeRoom();
        reserved = false;
        break;
      }
      sequence.Reserve(chunk.count);
    }
    if (reserved) return plan;
    if (running_.empty()) return {};
  }
}

// Frees blocks for a sequence that cannot grow: the youngest request goes back to the queue and
// starts over later; one that is alone can never fit and ends. The plan no longer holds.
void Engine::MakeRoom() {
  if (running_.size() == 1) return Finish(0, FinishReason::kCacheFull);
  running_.back()->sequence.Release();
  waiting_.insert(waiting_.begin(), std::move(running_.back()));
  running_.pop_back();
  ++stats_.preemptions;
}

void Engine::Execute(const std::vector<PlannedChunk>& plan) {
  Batch batch;
  bool prefill = false;
  for (const PlannedChunk& chunk : plan) {
    Running& r = *running_[chunk.sequence];
    batch.Add(r.sequence, std::span(r.tokens).subspan(static_cast<size_t>(r.sequence.length()),
                                                      static_cast<size_t>(chunk.count)));
    prefill |= r.sequence.length() < static_cast<int64_t>(r.request.prompt.size());
  }
  const double start = Now();
  transformer_.Forward(batch);

  std::vector<int64_t> rows;  // the last one of every chunk whose request wants a token
  std::vector<Draw> draws;
  int64_t row = 0;
  for (const PlannedChunk& chunk : plan) {
    row += chunk.count;
    Running& r = *running_[chunk.sequence];
    if (!WantsToken(r)) continue;
    rows.push_back(row - 1);
    draws.push_back(r.sampler.NextDraw());
  }
  sampled_.resize(rows.size());
  transformer_.Sample(rows, draws, sampled_);

  ++stats_.steps;
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  (prefill ? stats_.prefill_tokens : stats_.decode_tokens) += tokens;
  (prefill ? stats_.prefill_seconds : stats_.decode_seconds) += Now() - start;
  stats_.peak_cache_bytes = std::max(stats_.peak_cache_bytes, cache_.bytes_in_use());
}

bool Engine::Prefilling(const Running& r) {
  return r.sequence.length() < static_cast<int64_t>(r.tokens.size());
}

bool Engine::WantsToken(const Running& r) const {
  return !Prefilling(r) &&
         static_cast<int64_t>(results_.at(r.id).tokens.size()) < r.request.max_tokens;
}

void Engine::CommitTokens(const std::vector<PlannedChunk>& plan, const OnToken& on_token) {
  std::vector<std::pair<size_t, FinishReason>> finished;
  auto sampled = sampled_.begin();
  for (const PlannedChunk& chunk : plan) {
    Running& r = *running_[chunk.sequence];
    if (Prefilling(r)) continue;
    if (!WantsToken(r)) {
      finished.emplace_back(chunk.sequence, FinishReason::kLength);  // max_tokens = 0
      continue;
    }
    Result& result = results_[r.id];
    const TokenId token = *sampled++;
    if (std::find(r.request.stop.begin(), r.request.stop.end(), token) != r.request.stop.end()) {
      finished.emplace_back(chunk.sequence, FinishReason::kStop);
      continue;
    }
    r.tokens.push_back(token);
    result.tokens.push_back(token);
    if (on_token) on_token(r.id, token);
    if (static_cast<int64_t>(result.tokens.size()) == r.request.max_tokens) {
      finished.emplace_back(chunk.sequence, FinishReason::kLength);
    }
  }
  std::sort(finished.begin(), finished.end(), std::greater<>());
  for (const auto& [index, reason] : finished) Finish(index, reason);
}

void Engine::Finish(size_t index, FinishReason reason) {
  results_[running_[index]->id].reason = reason;
  running_.erase(running_.begin() + static_cast<ptrdiff_t>(index));
}

}  // namespace palu
