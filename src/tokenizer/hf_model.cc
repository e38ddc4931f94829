#include "tokenizer/hf_model.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/error.h"

namespace palu {
namespace {

constexpr int64_t kMaxId = (1 << 24) - 1;
constexpr size_t kMaxHoles = 1 << 20;

TokenId ParseId(const JsonView& json) { return static_cast<TokenId>(json.Int(0, kMaxId)); }

Vocabulary ParseVocabulary(const JsonView& json) {
  if (json.is_null()) json.FailExpected("an object of tokens and ids");
  Vocabulary vocabulary;
  std::vector<const std::string*> token_of_id;
  vocabulary.reserve(json.size());
  json.ForEachMember([&](const std::string& token, const JsonView& value) {
    const TokenId id = ParseId(value);
    if (token_of_id.size() <= static_cast<size_t>(id)) token_of_id.resize(id + 1);
    if (token_of_id[id] != nullptr) {
      value.FailExpected(fmt::format("an id of its own, not that of {}", Quoted(*token_of_id[id])));
    }
    token_of_id[id] = &vocabulary.emplace(token, id).first->first;
  });
  return vocabulary;
}

MergeTable ParseMerges(const JsonView& json, const Vocabulary& vocabulary) {
  const std::vector<JsonView> items = json.Items();
  MergeTable merges(items.size());
  std::string joined;
  uint32_t rank = 0;
  for (const JsonView& item : items) {
    const auto id_of = [&](std::string_view token) {
      const auto found = vocabulary.find(token);
      Require(found != vocabulary.end(), "{}: expected a token of model.vocab, found {}",
              item.where(), Quoted(token));
      return found->second;
    };
    const auto [left, right] = item.Pair();
    joined.assign(left).append(right);
    merges.Insert(id_of(left), id_of(right), {rank++, id_of(joined)});
  }
  return merges;
}

BpeOptions ParseOptions(const JsonView& model, const Vocabulary& vocabulary) {
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.At(affix).StringOr("").empty()) model.At(affix).FailExpected("nothing");
  }
  if (!model.At("dropout").is_null()) model.At("dropout").FailExpected("nothing");
  BpeOptions options;
  options.fuse_unknown = model.At("fuse_unk").BoolOr(false);
  options.byte_fallback = model.At("byte_fallback").BoolOr(false);
  options.whole_piece_first = model.At("ignore_merges").BoolOr(false);
  const JsonView unknown = model.At("unk_token");
  if (!unknown.is_null()) {
    const auto found = vocabulary.find(unknown.String());
    if (found == vocabulary.end()) unknown.FailExpected("a token of model.vocab");
    options.unknown = found->second;
  }
  return options;
}

}  // namespace

Bpe ParseBpe(const JsonView& model) {
  if (model.is_null()) model.FailExpected("an object");
  // The oldest files leave the type out.
  if (model.At("type").StringOr("BPE") != "BPE") model.At("type").FailExpected("BPE");
  Vocabulary vocabulary = ParseVocabulary(model.At("vocab"));
  MergeTable merges = ParseMerges(model.At("merges"), vocabulary);
  const BpeOptions options = ParseOptions(model, vocabulary);
  return Bpe(std::move(vocabulary), std::move(merges), options);
}

std::vector<AddedToken> ParseAddedTokens(const JsonView& added_tokens,
                                         const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  std::unordered_map<TokenId, std::string_view> token_of_id;
  for (const auto& [token, id] : vocabulary) token_of_id.emplace(id, token);
  std::unordered_map<std::string, TokenId> id_of_token;
  for (const JsonView& json : added_tokens.Items()) {
    AddedToken token;
    token.id = ParseId(json.At("id"));
    token.content = json.At("content").String();
    token.single_word = json.At("single_word").BoolOr(false);
    token.lstrip = json.At("lstrip").BoolOr(false);
    token.rstrip = json.At("rstrip").BoolOr(false);
    token.special = json.At("special").BoolOr(false);
    token.normalized = json.At("normalized").BoolOr(!token.special);
    const auto in_vocabulary = vocabulary.find(token.content);
    const auto [known, is_new] = id_of_token.emplace(
        token.content, in_vocabulary == vocabulary.end() ? token.id : in_vocabulary->second);
    if (known->second != token.id) {
      json.At("id").FailExpected(
          fmt::format("{}, which {} has elsewhere", known->second, Quoted(token.content)));
    }
    const auto owner = token_of_id.emplace(token.id, known->first).first;
    if (owner->second != token.content) {
      json.At("id").FailExpected(
          fmt::format("an id of its own, not that of {}", Quoted(owner->second)));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

size_t CountIds(const Vocabulary& vocabulary, const std::vector<AddedToken>& added_tokens,
                const JsonView& json) {
  size_t count = 0;
  for (const auto& [token, id] : vocabulary) count = std::max<size_t>(count, id + 1);
  for (const AddedToken& token : added_tokens) count = std::max<size_t>(count, token.id + 1);
  const size_t used = vocabulary.size() + added_tokens.size();
  Require(count <= used + kMaxHoles, "{}: expected ids with few gaps, found {} tokens and id {}",
          json.where(), used, count - 1);
  return count;
}

}  // namespace palu
