// Cuts pieces where a pattern matches.
#pragma once

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/regex.h"

namespace palu {

class SplitStep : public PreTokenizerStep {
 public:
  // What becomes of a match: a piece of its own, dropped, part of the piece before or behind, or
  // one piece with the matches that follow it directly.
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

  // With `invert` the stretches between matches count as matches and the other way round.
  SplitStep(Regex regex, Behavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  Pieces Apply(Pieces pieces) const override;

 private:
  Regex regex_;
  Behavior behavior_;
  bool invert_;
};

}  // namespace palu
