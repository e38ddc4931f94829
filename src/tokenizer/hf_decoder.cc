#include "tokenizer/hf_decoder.h"

#include <charconv>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/replace_all.h"

namespace palu {
namespace {

// The byte that "<0xHH>" names, or -1.
int ByteOf(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int byte = -1;
  const char* end = token.data() + 5;
  const auto parsed = std::from_chars(token.data() + 3, end, byte, 16);
  return parsed.ec == std::errc() && parsed.ptr == end && byte >= 0 ? byte : -1;
}

size_t ParseStrip(const JsonView& json) {
  if (json.At("content").String() != " ") json.At("content").FailExpected("a space");
  json.At("stop").Int(0, 0);
  return static_cast<size_t>(json.At("start").Int(0, 1'000'000));
}

}  // namespace

HfDecoder HfDecoder::Parse(const JsonView& json) {
  HfDecoder decoder;
  const std::vector<JsonView> parts = json.Flatten("decoders");
  if (parts.empty()) json.FailExpected("a decoder");
  // Each kind has its place in the row; a row in this order acts on single tokens up to Fuse, and
  // on the front of the whole text behind it.
  enum Stage { kReplace, kByteFallback, kFuse, kStrip, kWhole };
  int stage = kReplace;
  const auto advance = [&](const JsonView& type, int next) {
    if (next < stage || (next == kStrip && stage < kFuse)) {
      type.FailExpected("decoders in the order Replace, ByteFallback, Fuse, Strip");
    }
    stage = next;
  };
  for (const JsonView& part : parts) {
    const JsonView type = part.At("type");
    if (type.String() == "ByteLevel" || type.String() == "Metaspace") {
      if (parts.size() > 1) type.FailExpected("a decoder that combines with others");
      stage = kWhole;
      decoder.byte_level_ = type.String() == "ByteLevel";
      if (decoder.byte_level_) continue;
      decoder.replacements_.push_back({part.At("replacement").String(), " "});
      if (decoder.replacements_.back().pattern.empty()) {
        part.At("replacement").FailExpected("one character");
      }
      const bool prefix = part.At("add_prefix_space").BoolOr(true);
      decoder.rules_.first_token_bare =
          part.At("prepend_scheme").StringOr(prefix ? "always" : "never") != "never";
    } else if (type.String() == "Replace") {
      advance(type, kReplace);
      const JsonView pattern = part.At("pattern").At("String");
      if (pattern.is_null() || pattern.String().empty()) {
        pattern.FailExpected("a string that is not empty");
      }
      decoder.replacements_.push_back({pattern.String(), part.At("content").String()});
    } else if (type.String() == "ByteFallback") {
      advance(type, kByteFallback);
      decoder.byte_fallback_ = true;
      decoder.rules_.malformed = JoinRules::Malformed::kWholeRun;
    } else if (type.String() == "Fuse") {
      advance(type, kFuse);
    } else if (type.String() == "Strip") {
      advance(type, kStrip);
      decoder.rules_.strip_spaces += ParseStrip(part);
    } else {
      type.FailExpected("ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip or Sequence");
    }
  }
  return decoder;
}

std::pair<std::string, Surface::Kind> HfDecoder::Decode(std::string_view token) const {
  if (byte_level_) return {TokenBytes(token), Surface::Kind::kBytes};
  const size_t limit = GrowthLimit(token.size());
  std::string text(token);
  for (const Replacement& r : replacements_) text = ReplaceAll(text, r.pattern, r.content, limit);
  const int byte = byte_fallback_ ? ByteOf(text) : -1;
  if (byte >= 0) return {std::string(1, static_cast<char>(byte)), Surface::Kind::kBytes};
  return {std::move(text), Surface::Kind::kText};
}

}  // namespace palu
