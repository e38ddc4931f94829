#include "tokenizer/hf_tokenizer.h"

#include <utility>

#include "base/error.h"
#include "tokenizer/hf_decoder.h"
#include "tokenizer/hf_model.h"
#include "tokenizer/utf8.h"

namespace palu {
namespace {

// Special tokens come first, as the first of equal contents counts.
AddedTokenMatcher MatcherOf(const std::vector<AddedToken>& all, bool normalized,
                            const Normalizer& normalizer) {
  std::vector<AddedToken> chosen;
  for (const bool special : {true, false}) {
    for (const AddedToken& token : all) {
      if (token.normalized != normalized || token.special != special) continue;
      chosen.push_back(token);
      if (normalized) chosen.back().content = normalizer(token.content);
    }
  }
  return AddedTokenMatcher(std::move(chosen));
}

// The token that a TemplateProcessing puts in front of a single text.
std::optional<TokenId> ParseTemplate(const JsonView& json) {
  std::optional<TokenId> bos;
  bool text_seen = false;
  for (const JsonView& item : json.At("single").Items()) {
    const JsonView special = item.At("SpecialToken");
    if (special.is_null()) {
      item.At("Sequence").At("id").String();
      text_seen = true;
      continue;
    }
    if (bos || text_seen) {
      special.FailExpected("a template with one special token at most, in front of the text");
    }
    const JsonView ids = json.At("special_tokens").At(special.At("id").String()).At("ids");
    if (ids.Items().size() != 1) ids.FailExpected("one id");
    bos = static_cast<TokenId>(ids.Items()[0].Int(0, INT32_MAX));
  }
  return bos;
}

std::optional<TokenId> ParsePostProcessor(const JsonView& json) {
  std::optional<TokenId> bos;
  for (const JsonView& part : json.Flatten("processors")) {
    const JsonView type = part.At("type");
    if (type.String() == "TemplateProcessing") {
      bos = ParseTemplate(part);
    } else if (type.String() != "ByteLevel") {  // which only trims offsets
      type.FailExpected("ByteLevel, TemplateProcessing or Sequence");
    }
  }
  return bos;
}

}  // namespace

HfTokenizer::HfTokenizer(const JsonView& json)
    : bpe_(ParseBpe(json.At("model"))),
      added_tokens_(ParseAddedTokens(json.At("added_tokens"), bpe_.vocabulary())),
      normalizer_(Normalizer::Parse(json.At("normalizer"))),
      pre_tokenizer_(ParsePreTokenizer(json.At("pre_tokenizer"))),
      matcher_(MatcherOf(added_tokens_, /*normalized=*/false, normalizer_)),
      normalized_matcher_(MatcherOf(added_tokens_, /*normalized=*/true, normalizer_)) {
  BuildSurfaces(json);
  bos_ = ParsePostProcessor(json.At("post_processor"));
  if (bos_ && *bos_ >= vocab_size()) {
    json.At("post_processor").FailExpected(fmt::format("ids below {}", vocab_size()));
  }
}

void HfTokenizer::BuildSurfaces(const JsonView& json) {
  const HfDecoder decoder = HfDecoder::Parse(json.At("decoder"));
  surfaces_ = SurfaceTable(CountIds(bpe_.vocabulary(), added_tokens_, json));
  surfaces_.rules = decoder.rules();
  const auto set = [&](TokenId id, std::string_view token, bool special) {
    const auto [bytes, kind] = decoder.Decode(token);
    surfaces_.Set(id, bytes, kind, special);
  };
  for (const auto& [token, id] : bpe_.vocabulary()) set(id, token, /*special=*/false);
  for (const AddedToken& token : added_tokens_) set(token.id, token.content, token.special);
}

std::vector<TokenId> HfTokenizer::Encode(std::string_view text) const {
  const std::string clean = SanitizeUtf8(text);
  std::vector<TokenId> ids;
  for (const TextPart& part : matcher_.Split(clean)) {
    if (part.token) {
      ids.push_back(*part.token);
    } else {
      EncodeSection(part.text, part.text.data() == clean.data(), &ids);
    }
  }
  return ids;
}

void HfTokenizer::EncodeSection(std::string_view section, bool at_start,
                                std::vector<TokenId>* ids) const {
  const std::string normalized = normalizer_(section);
  for (const TextPart& part : normalized_matcher_.Split(normalized)) {
    if (part.token) {
      ids->push_back(*part.token);
      continue;
    }
    const bool first = at_start && part.text.data() == normalized.data();
    const Pieces pieces = PreTokenize(pre_tokenizer_, part.text, first);
    CachedBpe bpe(bpe_, ids);
    for (size_t i = 0; i < pieces.size(); ++i) bpe.Encode(pieces[i]);
  }
}

std::optional<TokenId> HfTokenizer::Find(std::string_view token) const {
  for (const AddedToken& added : added_tokens_) {
    if (added.content == token) return added.id;
  }
  const auto found = bpe_.vocabulary().find(token);
  if (found == bpe_.vocabulary().end()) return std::nullopt;
  return found->second;
}

std::unique_ptr<Tokenizer> ParseHfTokenizer(std::string_view json, std::string_view file) {
  const JsonDocument document(json, file);
  return std::make_unique<HfTokenizer>(document.root());
}

}  // namespace palu
