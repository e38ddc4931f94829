// Unicode regular expressions (PCRE2) as tokenizer files use them.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;

namespace palu {

struct TextRange {
  size_t begin;
  size_t end;
};

class Regex {
 public:
  enum class Syntax { kPattern, kLiteral };

  // Throws Error that begins with `where` when `pattern` is no regular expression.
  Regex(std::string_view pattern, Syntax syntax, std::string where);

  // Searches one text after another. Each thread needs a matcher of its own.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    ~Matcher();
    Matcher(const Matcher&) = delete;
    Matcher& operator=(const Matcher&) = delete;

    // The first match in `text` (well-formed UTF-8) at or after byte `from`; false when there is
    // none. Throws Error when the search takes more steps than any sane pattern needs.
    bool Find(std::string_view text, size_t from, TextRange* match);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  std::shared_ptr<pcre2_real_code_8> code_;
  std::string where_;
};

}  // namespace palu
