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

Vocabulary ParseVocabulary(const JsonView& json) {
  if (json.is_null()) json.FailExpected("an object of tokens and ids");
  Vocabulary vocabulary;
  std::vector<const std::string*> token_of_id;
  vocabulary.reserve(json.size());
  json.ForEachInt(0, kMaxId, [&](const std::string& token, int64_t value) {
    const auto id = static_cast<size_t>(value);
    if (token_of_id.size() <= id) token_of_id.resize(id + 1);
    if (token_of_id[id] != nullptr) {
      Fail("{}: expected one id for each token, found {} for {} and {}", json.where(), id,
           Quoted(*token_of_id[id]), Quoted(token));
    }
    token_of_id[id] = &vocabulary.emplace(token, static_cast<TokenId>(id)).first->first;
  });
  return vocabulary;
}

MergeTable ParseMerges(const JsonView& json, const Vocabulary& vocabulary) {
  MergeTable merges(json.size());
  std::string joined;
  uint32_t rank = 0;
  const auto id_of = [&](std::string_view token) {
    const auto found = vocabulary.find(token);
    if (found == vocabulary.end()) {
      Fail("{}[{}]: expected tokens of model.vocab, found {}", json.where(), rank, Quoted(token));
    }
    return found->second;
  };
  json.ForEachPair([&](std::string_view left, std::string_view right) {
    joined.assign(left).append(right);
    const TokenId left_id = id_of(left);
    const TokenId right_id = id_of(right);
    merges.Insert(left_id, right_id, {rank, id_of(joined)});
    ++rank;
  });
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
  std::unordered_map<TokenId, std::string> token_of_id;
  std::unordered_map<std::string, TokenId> id_of_token;
  for (const JsonView& json : added_tokens.Items()) {
    AddedToken token;
    token.id = static_cast<TokenId>(json.At("id").Int(0, kMaxId));
    token.content = json.At("content").String();
    token.single_word = json.At("single_word").BoolOr(false);
    token.lstrip = json.At("lstrip").BoolOr(false);
    token.rstrip = json.At("rstrip").BoolOr(false);
    token.special = json.At("special").BoolOr(false);
    token.normalized = json.At("normalized").BoolOr(!token.special);
    const auto in_vocabulary = vocabulary.find(token.content);
    const TokenId id = in_vocabulary == vocabulary.end() ? token.id : in_vocabulary->second;
    if (id != token.id || id_of_token.emplace(token.content, id).first->second != id) {
      json.At("id").FailExpected(
          fmt::format("the id that {} has elsewhere", Quoted(token.content)));
    }
    const std::string& owner = token_of_id.emplace(id, token.content).first->second;
    if (owner != token.content) {
      json.At("id").FailExpected(fmt::format("an id other than that of {}", Quoted(owner)));
    }
    tokens.push_back(std::move(token));
  }
  for (const auto& [token, id] : vocabulary) {
    const auto added = token_of_id.find(id);
    if (added != token_of_id.end() && added->second != token) {
      Fail("{}: expected an id of its own for {}, found {}, that of {}", added_tokens.where(),
           Quoted(added->second), id, Quoted(token));
    }
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
