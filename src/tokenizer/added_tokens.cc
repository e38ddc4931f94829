#include "tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "tokenizer/utf8.h"

namespace palu {
namespace {

// The character that ends where `text` ends; needs a non-empty, well-formed text.
Utf8Char LastCharacter(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (text[begin] & 0xC0) == 0x80) --begin;
  return ReadUtf8(text, begin);
}

// Unicode's White_Space.
bool IsSpace(char32_t c) {
  if (c == 0x85 || (c >= 0x09 && c <= 0x0D)) return true;
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

// What \w means in Unicode (UTS 18, annex C): letters, marks, decimal digits, letter numbers,
// connectors and the two joiners.
bool IsWordCharacter(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D;
  }
}

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  const bool word_before =
      begin > 0 && IsWordCharacter(LastCharacter(text.substr(0, begin)).code_point);
  const bool word_after = end < text.size() && IsWordCharacter(ReadUtf8(text, end).code_point);
  return !word_before && !word_after;
}

size_t SkipSpaceBackward(std::string_view text, size_t from, size_t limit) {
  while (from > limit) {
    const Utf8Char c = LastCharacter(text.substr(0, from));
    if (!IsSpace(c.code_point)) break;
    from -= c.length;
  }
  return from;
}

size_t SkipSpaceForward(std::string_view text, size_t from) {
  while (from < text.size()) {
    const Utf8Char c = ReadUtf8(text, from);
    if (!IsSpace(c.code_point)) break;
    from += c.length;
  }
  return from;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    if (content.empty()) continue;
    starts_[static_cast<unsigned char>(content[0])] = true;
    uint32_t node = 0;
    for (char byte : content) {
      const auto fresh = static_cast<uint32_t>(token_at_node_.size());
      const auto [edge, is_new] = children_.try_emplace(Edge(node, byte), fresh);
      if (is_new) token_at_node_.push_back(-1);
      node = edge->second;
    }
    if (token_at_node_[node] < 0) token_at_node_[node] = static_cast<int>(i);
  }
}

int AddedTokenMatcher::LongestAt(std::string_view text) const {
  int longest = -1;
  uint32_t node = 0;
  for (char byte : text) {
    const auto child = children_.find(Edge(node, byte));
    if (child == children_.end()) break;
    node = child->second;
    if (token_at_node_[node] >= 0) longest = token_at_node_[node];
  }
  return longest;
}

std::vector<TextPart> AddedTokenMatcher::Split(std::string_view text) const {
  std::vector<TextPart> parts;
  size_t done = 0;  // text up to here is in `parts`
  for (size_t at = 0; at < text.size();) {
    const bool may_start = starts_[static_cast<unsigned char>(text[at])];
    const int found = may_start ? LongestAt(text.substr(at)) : -1;
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = at;
    size_t end = at + token.content.size();
    at = end;
    if (token.single_word && !StandsAlone(text, begin, end)) continue;
    if (token.lstrip) begin = SkipSpaceBackward(text, begin, std::min(done, begin));
    if (token.rstrip) end = SkipSpaceForward(text, end);
    if (done < begin) parts.push_back({text.substr(done, begin - done), std::nullopt});
    parts.push_back({{}, token.id});
    done = std::max(done, end);
  }
  if (done < text.size()) parts.push_back({text.substr(done), std::nullopt});
  return parts;
}

}  // namespace palu
