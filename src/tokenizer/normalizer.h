// What happens to the text before it is cut into pieces: the "normalizer" of a tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_view.h"

namespace palu {

class Normalizer {
 public:
  // Null means no change. Throws Error on a type that is not supported.
  static Normalizer Parse(const JsonView& json);

  // `text` must be well-formed UTF-8.
  std::string operator()(std::string_view text) const;

 private:
  struct Step {
    enum class Kind { kUnicode, kPrepend, kReplace };
    Kind kind;
    int unicode_form = 0;  // options of utf8proc
    std::string pattern;
    std::string content;
  };
  std::vector<Step> steps_;
};

}  // namespace palu
