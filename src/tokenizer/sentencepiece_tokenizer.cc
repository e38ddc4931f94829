#include "tokenizer/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "tokenizer/replace_all.h"
#include "tokenizer/utf8.h"
#include "tokenizer/words.h"

namespace palu {
namespace {

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view model, std::string_view file) {
    const auto status = processor_.LoadFromSerializedProto({model.data(), model.size()});
    Require(status.ok(), "{}: expected a SentencePiece model, found: {}", file,
            SanitizeUtf8(status.ToString()));
    Require(processor_.GetPieceSize() > 0, "{}: expected a SentencePiece model, found no pieces",
            file);
    BuildSurfaces();
    words_are_independent_ = WordsAreIndependent();
    if (processor_.bos_id() >= 0) bos_ = processor_.bos_id();
  }

  std::vector<TokenId> Encode(std::string_view text) const override {
    const std::string clean = SanitizeUtf8(text);
    // A mark in the text itself would join the run of marks that spaces become.
    if (!words_are_independent_ || clean.find(kSpaceMark) != std::string::npos) {
      return EncodeWhole(clean);
    }
    std::vector<TokenId> ids;
    WordCache cache(&ids);
    for (size_t begin = 0; begin < clean.size();) {
      size_t end = EndOfWord(clean, begin, " ");
      if (clean.size() - end == 1) end = clean.size();  // a lone last space is no word by itself
      std::string_view word = std::string_view(clean).substr(begin, end - begin);
      if (begin > 0) word.remove_prefix(1);  // EncodeWhole puts one space in front anyway
      cache.Append(word, [&] {
        const auto word_ids = EncodeWhole(word);
        ids.insert(ids.end(), word_ids.begin(), word_ids.end());
      });
      begin = end;
    }
    return ids;
  }

  std::optional<TokenId> Find(std::string_view token) const override {
    const int id = processor_.PieceToId({token.data(), token.size()});
    if (processor_.IsUnknown(id) && processor_.IdToPiece(id) != token) return std::nullopt;
    return id;
  }

 private:
  std::vector<TokenId> EncodeWhole(std::string_view text) const {
    std::vector<int> ids;
    const auto status = processor_.Encode({text.data(), text.size()}, &ids);
    Require(status.ok(), "SentencePiece cannot encode the text: {}", status.ToString());
    return ids;
  }

  // Whether a text may be encoded word by word. That needs a BPE model (whose scores are whole
  // numbers, those of a unigram model logarithms), pieces that do not span words, a space added in
  // front, and no normalisation, which might see across words.
  bool WordsAreIndependent() const {
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      const float score = processor_.GetScore(id);
      if (score != std::round(score)) return false;
      if (SpansWords(processor_.IdToPiece(id), kSpaceMark)) return false;
    }
    std::string space;
    for (const std::string& piece : processor_.EncodeAsPieces(" ")) space += piece;
    const bool adds_one_space = space == std::string(kSpaceMark) + std::string(kSpaceMark);
    const bool normalises = EncodeWhole("\xEF\xAC\x81") == EncodeWhole("fi");  // the ligature
    return adds_one_space && !normalises;
  }

  void BuildSurfaces() {
    using Kind = Surface::Kind;
    surfaces_ = SurfaceTable(static_cast<size_t>(processor_.GetPieceSize()));
    surfaces_.rules.malformed = JoinRules::Malformed::kEachByte;
    surfaces_.rules.strip_spaces = LeadingSpaces();
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      if (processor_.IsByte(id)) {
        Require(piece.size() == 6, "SentencePiece model: expected <0xHH> as byte {}, found {}", id,
                SanitizeUtf8(piece));
        int byte = 0;
        std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);  // "<0xHH>"
        surfaces_.Set(id, std::string(1, static_cast<char>(byte)), Kind::kBytes, false);
      } else if (processor_.IsControl(id) || processor_.IsUnknown(id)) {
        surfaces_.Set(id, SanitizeUtf8(piece), Kind::kText, /*special=*/true);
      } else {
        const std::string text = ReplaceAll(piece, kSpaceMark, " ", piece.size());
        surfaces_.Set(id, SanitizeUtf8(text), Kind::kText, /*special=*/false);
      }
    }
  }

  // How many spaces decoding takes from the front. The model's settings are not accessible, but
  // what they do to two spaces is.
  size_t LeadingSpaces() const {
    const int space = processor_.PieceToId({kSpaceMark.data(), kSpaceMark.size()});
    if (processor_.IsUnknown(space)) return 1;
    const size_t kept = processor_.DecodeIds(std::vector<int>{space, space}).size();
    return kept == 0 ? std::numeric_limits<size_t>::max() : 2 - kept;
  }

  sentencepiece::SentencePieceProcessor processor_;
  bool words_are_independent_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> ParseSentencePiece(std::string_view model, std::string_view file) {
  return std::make_unique<SentencePieceTokenizer>(model, file);
}

}  // namespace palu
