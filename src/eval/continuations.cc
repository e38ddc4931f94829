#include "eval/continuations.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace palu {
namespace {

using Question = std::vector<Continuation>;

struct TokenScore {
  double logprob = 0;
  bool greedy = false;
};

// Tokens that a question puts into forward passes. The last token of a continuation is only scored.
int64_t PassTokens(const Question& question) {
  const int64_t prefix = SharedPrefix(question);
  int64_t tokens = prefix;
  for (const Continuation& c : question) tokens += std::ssize(c.ids) - 1 - prefix;
  return tokens;
}

ContinuationScore Sum(std::span<const TokenScore> tokens) {
  ContinuationScore sum{.greedy = true};
  for (const TokenScore& token : tokens) {
    sum.loglikelihood += token.logprob;
    sum.greedy &= token.greedy;
  }
  return sum;
}

// One cached sequence per question, holding its shared prefix.
std::vector<CachedSequence> ComputePrefixes(Scorer& scorer, std::span<const Question> questions) {
  std::vector<CachedSequence> sequences;
  std::vector<Scorer::Piece> pieces;
  for (size_t q = 0; q < questions.size(); ++q) sequences.push_back(scorer.NewSequence());
  for (size_t q = 0; q < questions.size(); ++q) {
    const auto prefix = static_cast<size_t>(SharedPrefix(questions[q]));
    if (prefix == 0) continue;
    pieces.push_back(
        {.sequence = &sequences[q], .ids = std::span(questions[q].front().ids).first(prefix)});
  }
  scorer.Extend(pieces);
  return sequences;
}

// Scores questions that fit into one pass, or a single longer one.
std::vector<std::vector<ContinuationScore>> ScoreGroup(Scorer& scorer,
                                                       std::span<const Question> questions) {
  std::vector<CachedSequence> prefixes = ComputePrefixes(scorer, questions);
  std::vector<CachedSequence> sequences;
  std::vector<Scorer::Piece> pieces;
  std::vector<const Continuation*> continuations;
  std::vector<std::vector<TokenScore>> tokens;  // per piece
  for (size_t q = 0; q < questions.size(); ++q) {
    for (const Continuation& c : questions[q]) {
      assert(c.context >= 1 && c.context < std::ssize(c.ids));
      const int64_t prefix = prefixes[q].length();
      sequences.push_back(prefixes[q].Fork());
      pieces.push_back(
          {.ids = std::span(c.ids).subspan(static_cast<size_t>(prefix),
                                           c.ids.size() - 1 - static_cast<size_t>(prefix)),
           .first_row = c.context - 1 - prefix});
      continuations.push_back(&c);
      tokens.emplace_back(c.ids.size() - static_cast<size_t>(c.context));
    }
    prefixes[q].Release();
  }
  for (size_t p = 0; p < pieces.size(); ++p) pieces[p].sequence = &sequences[p];

  const auto scored = [&](size_t p, int64_t index) {  // token of the continuation
    return static_cast<size_t>(index - pieces[p].first_row);
  };
  const auto next = [&](size_t p, int64_t index) {
    const Continuation& c = *continuations[p];
    return c.ids[static_cast<size_t>(c.context) + scored(p, index)];
  };
  scorer.ExtendScored(pieces, next, [&](size_t p, int64_t index, double logprob, TokenId argmax) {
    tokens[p][scored(p, index)] = {logprob, argmax == next(p, index)};
  });

  std::vector<std::vector<ContinuationScore>> scores;
  size_t p = 0;
  for (const Question& question : questions) {
    scores.emplace_back();
    for (size_t c = 0; c < question.size(); ++c) scores.back().push_back(Sum(tokens[p++]));
  }
  return scores;
}

}  // namespace

int64_t SharedPrefix(std::span<const Continuation> continuations) {
  if (continuations.size() < 2) return 0;
  const std::vector<TokenId>& first = continuations.front().ids;
  int64_t shared = std::ssize(first);
  for (const Continuation& c : continuations) {
    const auto [end, other] = std::mismatch(first.begin(), first.end(), c.ids.begin(), c.ids.end());
    shared = std::min({shared, int64_t{end - first.begin()}, c.context - 1});
  }
  return shared;
}

std::vector<std::vector<ContinuationScore>> ScoreContinuations(
    Scorer& scorer, std::span<const Question> questions, const std::function<void()>& on_question) {
  std::vector<std::vector<ContinuationScore>> scores;
  while (scores.size() < questions.size()) {
    const std::span<const Question> rest = questions.subspan(scores.size());
    size_t count = 1;
    int64_t room = scorer.options().chunk_tokens - PassTokens(rest[0]);
    while (count < rest.size() && (room -= PassTokens(rest[count])) >= 0) ++count;
    for (auto& question : ScoreGroup(scorer, rest.first(count))) {
      scores.push_back(std::move(question));
      if (on_question) on_question();
    }
  }
  return scores;
}

}  // namespace palu
