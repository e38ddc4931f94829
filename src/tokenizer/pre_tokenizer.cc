#include "tokenizer/pre_tokenizer.h"

#include <utility>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/replace_all.h"
#include "tokenizer/split_step.h"
#include "tokenizer/utf8.h"

namespace palu {
namespace {

// The pattern that GPT-2 was trained with and that ByteLevel applies unless told otherwise.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Puts a space in front of each piece that does not start with one.
class PrefixSpaceStep : public PreTokenizerStep {
 public:
  Pieces Apply(Pieces pieces) const override {
    Pieces out;
    out.at_start = pieces.at_start;
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (!pieces[i].starts_with(' ')) out.text += ' ';
      out.text += pieces[i];
      out.Cut();
    }
    return out;
  }
};

// Writes each byte as its letter of the byte-level alphabet.
class ByteLetterStep : public PreTokenizerStep {
 public:
  Pieces Apply(Pieces pieces) const override {
    Pieces out;
    out.at_start = pieces.at_start;
    out.text.reserve(pieces.text.size() + pieces.text.size() / 2);
    out.ends.reserve(pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) {
      for (char byte : pieces[i]) out.text += ByteLetter(static_cast<uint8_t>(byte));
      out.Cut();
    }
    return out;
  }
};

// SentencePiece's view of spaces: each becomes a visible mark, and words begin with one.
class MetaspaceStep : public PreTokenizerStep {
 public:
  enum class Prepend { kAlways, kFirst, kNever };

  MetaspaceStep(std::string mark, Prepend prepend, bool split)
      : mark_(std::move(mark)), prepend_(prepend), split_(split) {}

  Pieces Apply(Pieces pieces) const override {
    Pieces out;
    out.at_start = pieces.at_start;
    for (size_t i = 0; i < pieces.size(); ++i) {
      std::string piece = ReplaceAll(pieces[i], " ", mark_, GrowthLimit(pieces[i].size()));
      const bool wanted = prepend_ == Prepend::kAlways ||
                          (prepend_ == Prepend::kFirst && pieces.at_start && i == 0);
      if (wanted && !piece.starts_with(mark_)) piece.insert(0, mark_);
      AppendWords(piece, &out);
    }
    return out;
  }

 private:
  void AppendWords(std::string_view piece, Pieces* out) const {
    size_t begin = 0;
    while (split_ && begin < piece.size()) {
      const size_t next = piece.find(mark_, begin + 1);
      if (next == std::string_view::npos) break;
      out->text += piece.substr(begin, next - begin);
      out->Cut();
      begin = next;
    }
    out->text += piece.substr(begin);
    out->Cut();
  }

  std::string mark_;
  Prepend prepend_;
  bool split_;
};

SplitStep::Behavior ParseBehavior(const JsonView& json) {
  using Behavior = SplitStep::Behavior;
  const std::string& name = json.String();
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  json.FailExpected("Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
}

std::unique_ptr<PreTokenizerStep> ParseSplit(const JsonView& json) {
  const JsonView literal = json.At("pattern").At("String");
  const JsonView pattern = literal.is_null() ? json.At("pattern").At("Regex") : literal;
  Regex regex(pattern.String(),
              literal.is_null() ? Regex::Syntax::kPattern : Regex::Syntax::kLiteral,
              pattern.where());
  return std::make_unique<SplitStep>(std::move(regex), ParseBehavior(json.At("behavior")),
                                     json.At("invert").BoolOr(false));
}

std::unique_ptr<PreTokenizerStep> ParseDigits(const JsonView& json) {
  const bool individual = json.At("individual_digits").BoolOr(false);
  return std::make_unique<SplitStep>(
      Regex(individual ? R"(\p{N})" : R"(\p{N}+)", Regex::Syntax::kPattern, json.where()),
      SplitStep::Behavior::kIsolated, /*invert=*/false);
}

std::unique_ptr<PreTokenizerStep> ParseMetaspace(const JsonView& json) {
  using Prepend = MetaspaceStep::Prepend;
  const JsonView mark = json.At("replacement");
  if (mark.String().empty() || ReadUtf8(mark.String(), 0).length != mark.String().size()) {
    mark.FailExpected("one character");
  }
  const JsonView scheme = json.At("prepend_scheme");
  // Files from before prepend_scheme say add_prefix_space.
  const std::string name =
      scheme.StringOr(json.At("add_prefix_space").BoolOr(true) ? "always" : "never");
  if (name != "always" && name != "first" && name != "never") {
    scheme.FailExpected("always, first or never");
  }
  const Prepend prepend = name == "always"  ? Prepend::kAlways
                          : name == "first" ? Prepend::kFirst
                                            : Prepend::kNever;
  return std::make_unique<MetaspaceStep>(mark.String(), prepend, json.At("split").BoolOr(true));
}

void ParseByteLevel(const JsonView& json, PreTokenizer* steps) {
  if (json.At("add_prefix_space").BoolOr(true)) {
    steps->push_back(std::make_unique<PrefixSpaceStep>());
  }
  if (json.At("use_regex").BoolOr(true)) {
    steps->push_back(
        std::make_unique<SplitStep>(Regex(kGpt2Pattern, Regex::Syntax::kPattern, json.where()),
                                    SplitStep::Behavior::kIsolated, /*invert=*/false));
  }
  steps->push_back(std::make_unique<ByteLetterStep>());
}

}  // namespace

PreTokenizer ParsePreTokenizer(const JsonView& json) {
  PreTokenizer steps;
  for (const JsonView& part : json.Flatten("pretokenizers")) {
    const JsonView type = part.At("type");
    if (type.String() == "ByteLevel") {
      ParseByteLevel(part, &steps);
    } else if (type.String() == "Split") {
      steps.push_back(ParseSplit(part));
    } else if (type.String() == "Digits") {
      steps.push_back(ParseDigits(part));
    } else if (type.String() == "Metaspace") {
      steps.push_back(ParseMetaspace(part));
    } else {
      type.FailExpected("ByteLevel, Digits, Metaspace, Split or Sequence");
    }
  }
  return steps;
}

Pieces PreTokenize(const PreTokenizer& steps, std::string_view text, bool at_start) {
  Pieces pieces{std::string(text), {}, at_start};
  pieces.Cut();
  for (const auto& step : steps) pieces = step->Apply(std::move(pieces));
  return pieces;
}

}  // namespace palu
