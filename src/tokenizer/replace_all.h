// Literal replacement with a bound on growth, as the strings come from files.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace palu {

// Far above what any real file asks for; nested replacements that double the text stop here.
inline size_t GrowthLimit(size_t original) { return 4096 + 64 * original; }

inline void CheckGrowth(size_t size, size_t limit) {
  Require(size <= limit, "expected replaced text of at most {} bytes, found more", limit);
}

// `text` with each `pattern` (not empty) replaced; throws Error when the result passes `limit`.
inline std::string ReplaceAll(std::string_view text, std::string_view pattern,
                              std::string_view content, size_t limit) {
  std::string out;
  size_t done = 0;
  for (size_t at; (at = text.find(pattern, done)) != std::string_view::npos;) {
    out += text.substr(done, at - done);
    out += content;
    CheckGrowth(out.size(), limit);
    done = at + pattern.size();
  }
  out += text.substr(done);
  CheckGrowth(out.size(), limit);
  return out;
}

}  // namespace palu
