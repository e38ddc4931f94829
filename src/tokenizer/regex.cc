#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace palu {
namespace {

constexpr size_t kMaxPatternLength = 1 << 16;
constexpr size_t kMaxJitStack = 4 << 20;
// A catastrophic pattern stops here. A long run of spaces backtracks once per byte and alternative,
// which is why the limit grows with the text.
constexpr size_t kBaseSteps = 1'000'000;
constexpr size_t kStepsPerByte = 16;

// \s means Unicode's White_Space here; PCRE2 alone would also count U+180E.
std::string WithUnicodeSpace(std::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      out += pattern[i];
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out += "\\p{White_Space}";
    } else if (escaped == 'S') {
      out += "\\P{White_Space}";
    } else {
      out += '\\';
      out += escaped;
    }
  }
  return out;
}

std::string Message(int error) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

Regex::Regex(std::string_view pattern, Syntax syntax, std::string where)
    : where_(std::move(where)) {
  Require(!pattern.empty() && pattern.size() <= kMaxPatternLength,
          "{}: expected a pattern of 1 to {} bytes, found {}", where_, kMaxPatternLength,
          pattern.size());
  const std::string source =
      syntax == Syntax::kLiteral ? std::string(pattern) : WithUnicodeSpace(pattern);
  const uint32_t options =
      PCRE2_UTF |
      (syntax == Syntax::kLiteral ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(), options,
                            &error, &offset, nullptr),
              pcre2_code_free);
  Require(code_ != nullptr, "{}: expected a regular expression, found one with an error: {}",
          where_, Message(error));
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // without a JIT, matching is only slower
}

struct Regex::Matcher::State {
  const Regex& regex;
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data;
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context;
  std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack;
};

Regex::Matcher::Matcher(const Regex& regex)
    : state_(new State{
          regex,
          {pcre2_match_data_create(1, nullptr), pcre2_match_data_free},
          {pcre2_match_context_create(nullptr), pcre2_match_context_free},
          {pcre2_jit_stack_create(32 << 10, kMaxJitStack, nullptr), pcre2_jit_stack_free}}) {
  Require(state_->data && state_->context, "out of memory for a regular expression");
  pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->stack.get());
}

Regex::Matcher::~Matcher() = default;

bool Regex::Matcher::Find(std::string_view text, size_t from, TextRange* match) {
  if (from > text.size()) return false;
  const size_t steps = kBaseSteps + kStepsPerByte * text.size();
  pcre2_set_match_limit(state_->context.get(), static_cast<uint32_t>(std::min<size_t>(
                                                   steps, std::numeric_limits<uint32_t>::max())));
  // The text is known to be well-formed: checking it at every match would be quadratic.
  const int found =
      pcre2_match(state_->regex.code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                  from, PCRE2_NO_UTF_CHECK, state_->data.get(), state_->context.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  Require(found >= 0, "{}: expected a pattern that matches in reasonable time, found: {}",
          state_->regex.where_, Message(found));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state_->data.get());
  // \K inside a lookahead can put the begin behind the end, or before `from`.
  match->begin = std::max<size_t>(bounds[0], from);
  match->end = std::max<size_t>(bounds[1], match->begin);
  return true;
}

}  // namespace palu
