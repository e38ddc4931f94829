// How text is cut into the pieces that BPE then works on separately: the "pre_tokenizer" of a
// tokenizer.json, as a row of steps.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_view.h"

namespace palu {

// A text cut into pieces: piece i ends at ends[i] and begins where the one before ends.
struct Pieces {
  std::string text;
  std::vector<size_t> ends;
  bool at_start = false;  // the first piece stands at the very front of the user's text

  size_t size() const { return ends.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    return std::string_view(text).substr(begin, ends[i] - begin);
  }
  // Ends the piece that was appended to `text` since the last call; nothing when it is empty.
  void Cut() {
    if (text.size() > (ends.empty() ? 0 : ends.back())) ends.push_back(text.size());
  }
};

class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual Pieces Apply(Pieces pieces) const = 0;
};

using PreTokenizer = std::vector<std::unique_ptr<PreTokenizerStep>>;

// No step where `json` is null. Throws Error on a type that is not supported.
PreTokenizer ParsePreTokenizer(const JsonView& json);

// `text` as one piece, through all steps.
Pieces PreTokenize(const PreTokenizer& steps, std::string_view text, bool at_start);

}  // namespace palu
