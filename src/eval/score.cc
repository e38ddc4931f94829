#include "eval/score.h"

#include <algorithm>
#include <numeric>

#include "base/cancel.h"
#include "base/error.h"

namespace palu {
namespace {

constexpr int64_t kLogitBytes = int64_t{64} << 20;  // of one slab of logits

}  // namespace

Scorer::Scorer(const Model& model, Exec exec, const ScoreOptions& options)
    : model_(model),
      exec_(exec),
      options_(options),
      cache_(model.config(), options.cache_format, 0, exec.device),
      transformer_(model, cache_.layout(), exec, options.transformer) {}

TokenScores Scorer::Score(std::span<const TokenId> ids, int64_t first_position) {
  TokenScores scores;
  scores.logprobs.resize(ids.empty() ? 0 : ids.size() - 1);
  scores.argmax.resize(ids.size());
  Require(!ids.empty(), "there are no tokens to score: give at least one");
  CachedSequence sequence = cache_.NewSequence(first_position);
  const Piece piece{&sequence, ids, 0};
  ExtendScored(
      std::span(&piece, 1),
      [&](size_t, int64_t index) {
        const auto after = static_cast<size_t>(index) + 1;
        return after < ids.size() ? ids[after] : TokenId{-1};
      },
      [&](size_t, int64_t index, double logprob, TokenId argmax) {
        const auto i = static_cast<size_t>(index);
        scores.argmax[i] = argmax;
        if (i + 1 < ids.size()) scores.logprobs[i] = logprob;
      });
  return scores;
}

void Scorer::ForEachLogits(std::span<const TokenId> ids, int64_t first_position,
                           const OnLogits& row) {
  Require(!ids.empty(), "there are no tokens to score: give at least one");
  CachedSequence sequence = cache_.NewSequence(first_position);
  const Piece piece{&sequence, ids, 0};
  Extend(std::span(&piece, 1),
         [&](size_t, int64_t index, std::span<const float> logits) { row(index, logits); });
}

void Scorer::Extend(std::span<const Piece> pieces, const OnPieceLogits& row) {
  std::vector<int64_t> lengths;
  for (const Piece& piece : pieces) lengths.push_back(std::ssize(piece.ids));
  for (const std::vector<Segment>& pass : PlanPasses(lengths, options_.chunk_tokens)) {
    const std::vector<Wanted> wanted = RunPass(pieces, pass);
    if (!row) continue;
    const auto n = std::ssize(wanted);
    for (int64_t begin = 0; begin < n; begin += slab_rows()) {
      const int64_t count = std::min(slab_rows(), n - begin);
      const auto slab = std::span(wanted).subspan(static_cast<size_t>(begin));
      std::vector<int64_t> rows;
      for (const Wanted& w : slab.first(static_cast<size_t>(count))) rows.push_back(w.row);
      logits_.Resize(count, model_.config().vocab_size);
      transformer_.Logits(rows, logits_);
      exec_.pool.ParallelFor(count, [&](int64_t i, int) {
        const Wanted& w = slab[static_cast<size_t>(i)];
        row(w.piece, w.index, logits_.View().RowSpan(i));
      });
    }
  }
}

void Scorer::ExtendScored(std::span<const Piece> pieces, const NextToken& next,
                          const OnScore& score) {
  std::vector<int64_t> lengths;
  for (const Piece& piece : pieces) lengths.push_back(std::ssize(piece.ids));
  for (const std::vector<Segment>& pass : PlanPasses(lengths, options_.chunk_tokens)) {
    const std::vector<Wanted> wanted = RunPass(pieces, pass);
    std::vector<int64_t> rows;
    std::vector<TokenId> targets, argmax(wanted.size());
    std::vector<double> logprobs(wanted.size());
    for (const Wanted& w : wanted) {
      rows.push_back(w.row);
      targets.push_back(next(w.piece, w.index));
    }
    transformer_.LogProbs(rows, targets, logprobs, argmax);
    for (size_t i = 0; i < wanted.size(); ++i) {
      score(wanted[i].piece, wanted[i].index, logprobs[i], argmax[i]);
    }
  }
}

std::vector<Scorer::Wanted> Scorer::RunPass(std::span<const Piece> pieces,
                                            std::span<const Segment> pass) {
  ThrowIfCancelled();
  Batch batch;
  std::vector<Wanted> wanted;
  for (const Segment& segment : pass) {
    const Piece& piece = pieces[segment.piece];
    const auto row = std::ssize(batch.tokens);
    const int64_t end = segment.begin + segment.count;
    for (int64_t i = std::max(segment.begin, piece.first_row); i < end; ++i) {
      wanted.push_back({segment.piece, i, row + i - segment.begin});
    }
    piece.sequence->Reserve(segment.count);
    batch.Add(*piece.sequence, piece.ids.subspan(static_cast<size_t>(segment.begin),
                                                 static_cast<size_t>(segment.count)));
  }
  transformer_.Forward(batch);
  return wanted;
}

void Scorer::Pass(CachedSequence& sequence, std::span<const TokenId> ids) {
  const Piece piece{&sequence, ids, 0};
  const Segment segment{0, 0, std::ssize(ids)};
  RunPass(std::span(&piece, 1), std::span(&segment, 1));
}

void Scorer::Compare(Scorer& other, std::span<const TokenId> targets,
                     std::span<RowDivergence> results) {
  std::vector<int64_t> rows(targets.size());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  transformer_.Compare(other.transformer_, rows, targets, results);
}

int64_t Scorer::slab_rows() const {
  return std::max<int64_t>(1, kLogitBytes / (model_.config().vocab_size * 4));
}

}  // namespace palu
