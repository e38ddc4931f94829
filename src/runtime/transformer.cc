#include "runtime/transformer.h"

#include <numeric>

#include "base/error.h"

namespace palu {

void Batch::Add(CachedSequence& sequence, std::span<const TokenId> chunk_tokens) {
  if (chunk_tokens.empty()) return;
  tokens.insert(tokens.end(), chunk_tokens.begin(), chunk_tokens.end());
  chunks.push_back({&sequence, static_cast<int64_t>(chunk_tokens.size())});
}

Transformer::Transformer(const Model& model, const CacheLayout& layout, const Exec& exec,
                         const TransformerOptions& options)
    : model_(model),
      exec_(exec),
      pass_(exec.device.kind == Device::Kind::kCuda
                ? cuda::MakeForward(model, layout, exec, options)
                : MakeCpuForward(model, layout, exec, options)) {}

int64_t Transformer::Forward(const Batch& batch) {
  const int64_t vocab = model_.config().vocab_size;
  for (const TokenId id : batch.tokens) {
    Require(id >= 0 && id < vocab, "token {} lies outside the vocabulary of {}", id, vocab);
  }
  pass_->Run(batch);
  for (const Batch::Chunk& chunk : batch.chunks) chunk.sequence->Commit(chunk.count);
  return std::ssize(batch.tokens);
}

void Transformer::Logits(std::span<const int64_t> rows, MatrixView<float> logits) {
  pass_->Logits(rows, logits);
}

void Transformer::Logits(int64_t first, MatrixView<float> logits) {
  std::vector<int64_t> rows(static_cast<size_t>(logits.rows));
  std::iota(rows.begin(), rows.end(), first);
  pass_->Logits(rows, logits);
}

}  // namespace palu
