// The "decoder" of a tokenizer.json, boiled down to a function of single tokens and JoinRules.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/json_view.h"
#include "tokenizer/surface.h"

namespace palu {

class HfDecoder {
 public:
  // Throws Error on a missing decoder, a type that is not supported, or an order of types whose
  // effect is no function of single tokens.
  static HfDecoder Parse(const JsonView& json);

  const JoinRules& rules() const { return rules_; }

  // The text or bytes of `token`, and which of the two.
  std::pair<std::string, Surface::Kind> Decode(std::string_view token) const;

 private:
  struct Replacement {
    std::string pattern;
    std::string content;
  };
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  std::vector<Replacement> replacements_;
  JoinRules rules_;
};

}  // namespace palu
