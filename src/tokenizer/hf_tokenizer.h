// The tokenizers of Hugging Face's tokenizer.json, as far as language models use them: BPE, either
// byte-level (GPT-2, Llama 3, Qwen) or in SentencePiece's manner with byte fallback (Llama 2,
// Phi-3).
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json_view.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace palu {

class HfTokenizer : public Tokenizer {
 public:
  explicit HfTokenizer(const JsonView& json);

  std::vector<TokenId> Encode(std::string_view text) const override;
  std::optional<TokenId> Find(std::string_view token) const override;

 private:
  void BuildSurfaces(const JsonView& json);
  // Encodes what stands between the added tokens that are looked for in the original text.
  void EncodeSection(std::string_view section, bool at_start, std::vector<TokenId>* ids) const;

  Bpe bpe_;
  std::vector<AddedToken> added_tokens_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokenMatcher matcher_;             // on the original text
  AddedTokenMatcher normalized_matcher_;  // on the normalised text
};

// `json` is the text of a tokenizer.json, `file` its name for messages. Throws Error when it is
// malformed or asks for something that is not supported.
std::unique_ptr<Tokenizer> ParseHfTokenizer(std::string_view json, std::string_view file);

}  // namespace palu
