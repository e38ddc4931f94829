#include "eval/bench/workload.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/cancel.h"
#include "runtime/fill_cache.h"
#include "runtime/scheduler.h"

namespace palu {
namespace {

constexpr uint64_t kSeed = 1;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Workload PrefillWorkload(int64_t prompt) {
  return {Phase::kPrefill, 0, prompt, 1, std::min(prompt, SchedulerLimits{}.chunk_tokens)};
}

Workload DecodeWorkload(int64_t depth, int64_t generate, int64_t batch) {
  return {Phase::kDecode, depth, generate, batch, 1};
}

BenchModel::BenchModel(std::string name, const Model& model, Exec exec, const CacheFormat& format,
                       TransformerOptions options)
    : name_(std::move(name)),
      exec_(exec),
      layout_(model.config(), format),
      transformer_(model, layout_, exec, options) {}

int64_t BenchModel::CacheBytes(const Workload& workload) const {
  return workload.batch * layout_.BytesFor(workload.depth + workload.tokens);
}

Cost BenchModel::TotalCost(const Workload& workload) const {
  Cost total;
  for (int64_t done = 0; done < workload.tokens; done += workload.chunk) {
    const ChunkShape chunk{workload.depth + done, std::min(workload.chunk, workload.tokens - done)};
    const std::vector<ChunkShape> chunks(static_cast<size_t>(workload.batch), chunk);
    total += CountStep(transformer_, layout_, chunks);
  }
  return total;
}

void BenchModel::Prepare(const Workload& workload) {
  Release();
  cache_ = std::make_unique<KvCache>(layout_, 0, exec_.device);
  for (int64_t b = 0; b < workload.batch; ++b) {
    sequences_.push_back(cache_->NewSequence());
    FillRandom(layout_, sequences_.back(), workload.depth, kSeed + static_cast<uint64_t>(b),
               exec_.pool);
  }
  Step(workload.chunk);
  Rewind(workload.depth);
}

double BenchModel::Time(const Workload& workload) {
  const double start = Now();
  for (int64_t done = 0; done < workload.tokens; done += workload.chunk) {
    ThrowIfCancelled();
    Step(std::min(workload.chunk, workload.tokens - done));
  }
  const double seconds = Now() - start;
  used_bytes_ = cache_->bytes_in_use();
  Rewind(workload.depth);
  return seconds;
}

void BenchModel::Release() {
  sequences_.clear();
  cache_.reset();
}

// Which tokens they are makes no difference to the time; they differ so that embedding rows do.
void BenchModel::Step(int64_t count) {
  Batch batch;
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (CachedSequence& sequence : sequences_) {
    for (TokenId& token : tokens) {
      const auto index = static_cast<int64_t>(&token - tokens.data());
      token =
          static_cast<TokenId>((sequence.length() + index) * 7919 % model().config().vocab_size);
    }
    sequence.Reserve(count);
    batch.Add(sequence, tokens);
  }
  transformer_.Forward(batch);
  std::vector<int64_t> last;  // row of every sequence
  for (size_t s = 1; s <= sequences_.size(); ++s) {
    last.push_back(static_cast<int64_t>(s) * count - 1);
  }
  const std::vector<Draw> greedy(last.size());
  std::vector<TokenId> sampled(last.size());
  transformer_.Sample(last, greedy, sampled);
}

void BenchModel::Rewind(int64_t depth) {
  for (CachedSequence& sequence : sequences_) sequence.Truncate(depth);
}

}  // namespace palu
