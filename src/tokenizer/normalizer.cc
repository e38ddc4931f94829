#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>

#include "base/error.h"
#include "tokenizer/replace_all.h"

namespace palu {
namespace {

std::optional<int> UnicodeForm(std::string_view name) {
  if (name == "NFC") return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  if (name == "NFD") return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (name == "NFKC") return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
  if (name == "NFKD") return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  return std::nullopt;
}

std::string ToUnicodeForm(std::string text, int form) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  if (std::all_of(text.begin(), text.end(), is_ascii)) return text;
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                             static_cast<utf8proc_option_t>(form));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, std::free);
  Require(size >= 0, "Unicode normalisation of {} bytes failed: {}", text.size(),
          utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(mapped), static_cast<size_t>(size)};
}

}  // namespace

Normalizer Normalizer::Parse(const JsonView& json) {
  Normalizer normalizer;
  for (const JsonView& part : json.Flatten("normalizers")) {
    const JsonView type = part.At("type");
    Step step{};
    if (const auto form = UnicodeForm(type.String())) {
      step = {Step::Kind::kUnicode, *form, "", ""};
    } else if (type.String() == "Prepend") {
      step = {Step::Kind::kPrepend, 0, "", part.At("prepend").String()};
    } else if (type.String() == "Replace") {
      const JsonView pattern = part.At("pattern").At("String");
      if (pattern.is_null() || pattern.String().empty()) {
        pattern.FailExpected("a string that is not empty");
      }
      step = {Step::Kind::kReplace, 0, pattern.String(), part.At("content").String()};
    } else {
      type.FailExpected("NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence");
    }
    normalizer.steps_.push_back(std::move(step));
  }
  return normalizer;
}

std::string Normalizer::operator()(std::string_view text) const {
  std::string out(text);
  const size_t limit = GrowthLimit(text.size());
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kUnicode:
        out = ToUnicodeForm(std::move(out), step.unicode_form);
        break;
      case Step::Kind::kPrepend:
        if (!out.empty()) out = step.content + out;
        break;
      case Step::Kind::kReplace:
        out = ReplaceAll(out, step.pattern, step.content, limit);
        break;
    }
    CheckGrowth(out.size(), limit);
  }
  return out;
}

}  // namespace palu
