#include "tokenizer/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <charconv>
#include <limits>

#include "base/error.h"
#include "tokenizer/replace_all.h"
#include "tokenizer/utf8.h"

namespace palu {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, SentencePiece's visible space

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view model, std::string_view file) {
    const auto status = processor_.LoadFromSerializedProto({model.data(), model.size()});
    Require(status.ok(), "{}: expected a SentencePiece model, found: {}", file,
            SanitizeUtf8(status.ToString()));
    Require(processor_.GetPieceSize() > 0, "{}: expected a SentencePiece model, found no pieces",
            file);
    BuildSurfaces();
    if (processor_.bos_id() >= 0) bos_ = processor_.bos_id();
  }

  std::vector<TokenId> Encode(std::string_view text) const override {
    const std::string clean = SanitizeUtf8(text);
    std::vector<int> ids;
    const auto status = processor_.Encode(clean, &ids);
    Require(status.ok(), "SentencePiece cannot encode the text: {}", status.ToString());
    return ids;
  }

  std::optional<TokenId> Find(std::string_view token) const override {
    const int id = processor_.PieceToId({token.data(), token.size()});
    if (processor_.IsUnknown(id) && processor_.IdToPiece(id) != token) return std::nullopt;
    return id;
  }

 private:
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
};

}  // namespace

std::unique_ptr<Tokenizer> ParseSentencePiece(std::string_view model, std::string_view file) {
  return std::make_unique<SentencePieceTokenizer>(model, file);
}

}  // namespace palu
