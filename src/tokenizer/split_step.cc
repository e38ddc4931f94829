#include "tokenizer/split_step.h"

#include <algorithm>

#include "tokenizer/utf8.h"

namespace palu {
namespace {

using Behavior = SplitStep::Behavior;

struct Stretch {
  size_t begin;
  size_t end;
  bool is_match;
};

// The whole of `text` as matches and the stretches between them. An empty match still separates
// what stands on both sides, but directly behind another match it counts for nothing.
void FindStretches(Regex::Matcher* matcher, std::string_view text, bool invert,
                   std::vector<Stretch>* stretches) {
  stretches->clear();
  size_t done = 0;
  size_t from = 0;
  for (TextRange match; matcher->Find(text, from, &match);) {
    from = match.end;
    if (match.begin == match.end) {
      from += match.end < text.size() ? ReadUtf8(text, match.end).length : 1;
      if (match.begin == done && !stretches->empty()) continue;
    }
    if (match.begin > done) stretches->push_back({done, match.begin, invert});
    stretches->push_back({match.begin, match.end, !invert});
    done = match.end;
  }
  if (done < text.size()) stretches->push_back({done, text.size(), invert});
}

// Joins a match to the stretch before it, unless that is a match itself. Works on the mirrored
// row too, which is how a match joins what follows.
std::vector<Stretch> MergeMatches(const std::vector<Stretch>& stretches) {
  std::vector<Stretch> merged;
  bool after_match = false;
  for (const Stretch& stretch : stretches) {
    if (stretch.is_match && !after_match && !merged.empty()) {
      merged.back().begin = std::min(merged.back().begin, stretch.begin);
      merged.back().end = std::max(merged.back().end, stretch.end);
    } else {
      merged.push_back(stretch);
    }
    after_match = stretch.is_match;
  }
  return merged;
}

std::vector<Stretch> Arrange(std::vector<Stretch> stretches, Behavior behavior) {
  switch (behavior) {
    case Behavior::kIsolated:
      break;
    case Behavior::kRemoved:
      std::erase_if(stretches, [](const Stretch& s) { return s.is_match; });
      break;
    case Behavior::kMergedWithPrevious:
      return MergeMatches(stretches);
    case Behavior::kMergedWithNext:
      std::reverse(stretches.begin(), stretches.end());
      stretches = MergeMatches(stretches);
      std::reverse(stretches.begin(), stretches.end());
      break;
    case Behavior::kContiguous: {
      std::vector<Stretch> joined;
      for (const Stretch& s : stretches) {
        if (!joined.empty() && joined.back().is_match == s.is_match) {
          joined.back().end = s.end;
        } else {
          joined.push_back(s);
        }
      }
      return joined;
    }
  }
  return stretches;
}

}  // namespace

Pieces SplitStep::Apply(Pieces pieces) const {
  Regex::Matcher matcher(regex_);
  Pieces out;
  out.at_start = pieces.at_start;
  out.text.reserve(pieces.text.size());
  std::vector<Stretch> stretches;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string_view piece = pieces[i];
    FindStretches(&matcher, piece, invert_, &stretches);
    if (behavior_ != Behavior::kIsolated) stretches = Arrange(std::move(stretches), behavior_);
    for (const Stretch& s : stretches) {
      out.text += piece.substr(s.begin, s.end - s.begin);
      out.Cut();
    }
  }
  return out;
}

}  // namespace palu
