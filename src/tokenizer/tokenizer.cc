#include "tokenizer/tokenizer.h"

#include "tokenizer/utf8.h"

namespace palu {

std::vector<TokenId> Tokenizer::EncodeWithBos(std::string_view text) const {
  std::vector<TokenId> ids = Encode(text);
  if (bos_) ids.insert(ids.begin(), *bos_);
  return ids;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool keep_special) const {
  StreamDecoder stream(*this, keep_special);
  std::string text;
  for (TokenId id : ids) text += stream.Push(id);
  return text + stream.Finish();
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool keep_special)
    : surfaces_(tokenizer.surfaces()),
      keep_special_(keep_special),
      spaces_to_strip_(surfaces_.rules.strip_spaces) {}

std::string StreamDecoder::Push(TokenId id) {
  const Surface surface = surfaces_.At(id);
  std::string out;
  if (surface.kind == Surface::Kind::kNone || (surface.special && !keep_special_)) return out;
  const bool bare = surfaces_.rules.first_token_bare && at_first_token_;
  at_first_token_ = false;
  if (surface.kind == Surface::Kind::kBytes) {
    // SentencePiece strips no space that is spelled as a byte.
    if (surfaces_.rules.malformed == JoinRules::Malformed::kEachByte) spaces_to_strip_ = 0;
    held_back_ += surface.bytes;
    EmitHeldBack(/*finished=*/false, &out);
    return out;
  }
  EmitHeldBack(/*finished=*/true, &out);
  if (bare) {
    for (char c : surface.bytes) {
      if (c != ' ') out += c;
    }
  } else {
    Emit(surface.bytes, &out);
  }
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out;
  EmitHeldBack(/*finished=*/true, &out);
  return out;
}

void StreamDecoder::EmitHeldBack(bool finished, std::string* out) {
  using Malformed = JoinRules::Malformed;
  const Malformed malformed = surfaces_.rules.malformed;
  if (malformed == Malformed::kWholeRun) {
    // One bad byte spoils the whole run, so nothing of it is certain before its end.
    if (!finished) return;
    if (IsValidUtf8(held_back_)) {
      Emit(held_back_, out);
    } else {
      for (size_t i = 0; i < held_back_.size(); ++i) Emit(kReplacementCharacter, out);
    }
    held_back_.clear();
    return;
  }
  size_t at = 0;
  while (at < held_back_.size()) {
    const Utf8Char c = ReadUtf8(held_back_, at);
    if (c.state == Utf8Char::State::kIncomplete && !finished) break;
    if (c.state == Utf8Char::State::kValid) {
      Emit(std::string_view(held_back_).substr(at, c.length), out);
      at += c.length;
    } else {
      Emit(kReplacementCharacter, out);
      at += malformed == Malformed::kEachByte ? 1 : c.length;
    }
  }
  held_back_.erase(0, at);
}

void StreamDecoder::Emit(std::string_view text, std::string* out) {
  while (spaces_to_strip_ > 0 && !text.empty()) {
    if (text.front() != ' ') {
      spaces_to_strip_ = 0;
    } else {
      text.remove_prefix(1);
      --spaces_to_strip_;
    }
  }
  *out += text;
}

}  // namespace palu
