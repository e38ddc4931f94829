#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace palu {
namespace {

uint64_t QueueKey(uint32_t rank, int32_t at) {
  return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(at);
}

}  // namespace

Bpe::Bpe(Vocabulary vocabulary, MergeTable merges, BpeOptions options)
    : vocabulary_(std::move(vocabulary)),
      merges_(std::move(merges)),
      options_(options),
      bytes_(256, -1) {
  for (const auto& [token, id] : vocabulary_) {
    if (token.empty()) continue;
    const Utf8Char first = ReadUtf8(token, 0);
    if (first.length == token.size()) characters_[first.code_point] = id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto token = vocabulary_.find(fmt::format("<0x{:02X}>", byte));
    if (token != vocabulary_.end()) bytes_[byte] = token->second;
  }
  const bool nothing_vanishes =
      options_.unknown ||
      (options_.byte_fallback && std::find(bytes_.begin(), bytes_.end(), -1) == bytes_.end());
  words_are_independent_ =
      nothing_vanishes && !options_.whole_piece_first && vocabulary_.contains(kSpaceMark) &&
      std::none_of(vocabulary_.begin(), vocabulary_.end(),
                   [](const auto& entry) { return SpansWords(entry.first, kSpaceMark); });
}

void Bpe::Encode(std::string_view piece, Scratch* scratch, std::vector<TokenId>* ids) const {
  Require(piece.size() < INT32_MAX, "a text of {} bytes is too long to tokenize", piece.size());
  if (options_.whole_piece_first) {
    const auto whole = vocabulary_.find(piece);
    if (whole != vocabulary_.end()) return ids->push_back(whole->second);
  }
  scratch->symbols.clear();
  SplitIntoCharacters(piece, &scratch->symbols);
  if (scratch->symbols.empty()) return;
  MergeAll(scratch);
  for (int32_t at = 0; at >= 0; at = scratch->symbols[at].next) {
    ids->push_back(scratch->symbols[at].id);
  }
}

void Bpe::SplitIntoCharacters(std::string_view piece, std::vector<Scratch::Symbol>* symbols) const {
  bool after_unknown = false;
  for (size_t at = 0; at < piece.size();) {
    const Utf8Char c = ReadUtf8(piece, at);
    const std::string_view character = piece.substr(at, c.length);
    at += c.length;
    const auto known = characters_.find(c.code_point);
    if (known != characters_.end()) {
      symbols->push_back({known->second, 0, 0, 0});
    } else if (!options_.byte_fallback || !AppendBytes(character, symbols)) {
      const bool fused = options_.fuse_unknown && after_unknown;
      if (options_.unknown && !fused) symbols->push_back({*options_.unknown, 0, 0, 0});
      after_unknown = true;
      continue;
    }
    after_unknown = false;
  }
}

bool Bpe::AppendBytes(std::string_view character, std::vector<Scratch::Symbol>* symbols) const {
  const auto id = [&](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
  if (std::any_of(character.begin(), character.end(), [&](char c) { return id(c) < 0; })) {
    return false;
  }
  for (char byte : character) symbols->push_back({id(byte), 0, 0, 0});
  return true;
}

void Bpe::RankWithNext(int32_t at, Scratch* scratch) const {
  Scratch::Symbol& symbol = scratch->symbols[at];
  symbol.rank = symbol.next < 0 ? MergeTable::kNoRank
                                : merges_.Find(symbol.id, scratch->symbols[symbol.next].id).rank;
}

// A linked list of symbols and a heap of the pairs that may merge. An entry of the heap is stale
// when the symbol at its position has another rank by now; such entries are dropped when met.
void Bpe::MergeAll(Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  auto& queue = scratch->queue;
  const auto count = static_cast<int32_t>(symbols.size());
  queue.clear();
  for (int32_t at = 0; at < count; ++at) {
    symbols[at].previous = at - 1;
    symbols[at].next = at + 1 < count ? at + 1 : -1;
    RankWithNext(at, scratch);
    if (symbols[at].rank != MergeTable::kNoRank) queue.push_back(QueueKey(symbols[at].rank, at));
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  const auto rank_and_queue = [&](int32_t at) {
    RankWithNext(at, scratch);
    if (symbols[at].rank == MergeTable::kNoRank) return;
    queue.push_back(QueueKey(symbols[at].rank, at));
    std::push_heap(queue.begin(), queue.end(), std::greater<>());
  };
  while (!queue.empty()) {
    const auto at = static_cast<int32_t>(queue.front() & UINT32_MAX);
    const auto rank = static_cast<uint32_t>(queue.front() >> 32);
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
    Scratch::Symbol& left = symbols[at];
    if (left.rank != rank) continue;
    Scratch::Symbol& right = symbols[left.next];
    left.id = merges_.Find(left.id, right.id).result;
    left.next = right.next;
    right.rank = MergeTable::kNoRank;
    if (left.next >= 0) symbols[left.next].previous = at;
    rank_and_queue(at);
    if (left.previous >= 0) rank_and_queue(left.previous);
  }
}

void CachedBpe::Encode(std::string_view piece) {
  for (size_t begin = 0; begin < piece.size();) {
    const size_t end =
        bpe_.words_are_independent() ? EndOfWord(piece, begin, kSpaceMark) : piece.size();
    const std::string_view word = piece.substr(begin, end - begin);
    cache_.Append(word, [&] { bpe_.Encode(word, &scratch_, ids_); });
    begin = end;
  }
}

}  // namespace palu
