// Log-probabilities of given tokens: what perplexity, divergence, multiple choice and `palu score`
// build on.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "eval/pass_plan.h"
#include "runtime/transformer.h"

namespace palu {

struct ScoreOptions {
  CacheFormat cache_format;
  int64_t chunk_tokens = 2048;  // of one forward pass
  TransformerOptions transformer;
};

struct TokenScores {
  std::vector<double> logprobs;  // [n - 1] natural log-probability of ids[i + 1] after ids[0..i]
  std::vector<TokenId> argmax;   // [n] most likely token after ids[0..i]
};

// Keeps a cache and a transformer for repeated scoring.
class Scorer {
 public:
  Scorer(const Model& model, Exec exec, const ScoreOptions& options = {});

  // The ids are taken as they are. Throws Error when there are none or one is unknown.
  TokenScores Score(std::span<const TokenId> ids, int64_t first_position = 0);

  // Calls row(i, logits [vocab]) once for every i in [0, n), from several threads.
  using OnLogits = std::function<void(int64_t index, std::span<const float> logits)>;
  void ForEachLogits(std::span<const TokenId> ids, int64_t first_position, const OnLogits& row);

  // Tokens to append to a sequence of this scorer, and the first of them whose logits are wanted.
  struct Piece {
    CachedSequence* sequence = nullptr;
    std::span<const TokenId> ids;
    int64_t first_row = 0;
  };
  using OnPieceLogits =
      std::function<void(size_t piece, int64_t index, std::span<const float> logits)>;
  // Appends all pieces, as many per forward pass as fit into chunk_tokens, and calls
  // row(piece, i, logits [vocab]) once for every i >= first_row, from several threads.
  void Extend(std::span<const Piece> pieces, const OnPieceLogits& row = {});

  // The same for the log-probability of the token next(piece, i) (0 where that is negative) and
  // the most likely token, which on a GPU are all that comes back. Calls from one thread, in order.
  using NextToken = std::function<TokenId(size_t piece, int64_t index)>;
  using OnScore = std::function<void(size_t piece, int64_t index, double logprob, TokenId argmax)>;
  void ExtendScored(std::span<const Piece> pieces, const NextToken& next, const OnScore& score);

  // One pass over at most chunk_tokens, whose hidden states are kept until the next pass.
  void Pass(CachedSequence& sequence, std::span<const TokenId> ids);
  // Compares the distributions after this scorer's last pass (p) with those after another one's
  // pass over as many tokens (q): targets and results [tokens].
  void Compare(Scorer& other, std::span<const TokenId> targets, std::span<RowDivergence> results);

  CachedSequence NewSequence(int64_t first_position = 0) {
    return cache_.NewSequence(first_position);
  }
  const Model& model() const { return model_; }
  const Exec& exec() const { return exec_; }
  const ScoreOptions& options() const { return options_; }
  const KvCache& cache() const { return cache_; }
  const Transformer& transformer() const { return transformer_; }

 private:
  struct Wanted {  // a row of a pass whose logits are wanted
    size_t piece;
    int64_t index;
    int64_t row;
  };
  int64_t slab_rows() const;
  std::vector<Wanted> RunPass(std::span<const Piece> pieces, std::span<const Segment> pass);

  const Model& model_;
  Exec exec_;
  ScoreOptions options_;
  KvCache cache_;
  Transformer transformer_;
  Matrix<float> logits_;
};

}  // namespace palu
