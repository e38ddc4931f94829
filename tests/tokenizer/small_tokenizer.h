// A tokenizer.json small enough to read, with parts to replace.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "tokenizer/hf_tokenizer.h"

namespace palu::testing {

// The letters a to d and the space, "ab" and "abc" by merging, one special token.
inline nlohmann::json SmallJson() {
  return nlohmann::json::parse(R"({
    "added_tokens": [{"id": 8, "content": "<s>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": null,
    "post_processor": null,
    "decoder": {"type": "Fuse"},
    "model": {
      "type": "BPE",
      "unk_token": "?",
      "vocab": {"?": 0, "a": 1, "b": 2, "c": 3, "d": 4, " ": 5, "ab": 6, "abc": 7},
      "merges": ["a b", ["ab", "c"]]
    }
  })");
}

inline std::unique_ptr<Tokenizer> Parse(const nlohmann::json& json) {
  return ParseHfTokenizer(json.dump(), "t.json");
}

}  // namespace palu::testing
