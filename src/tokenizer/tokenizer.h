// Text to token ids and back, as the model's own tokenizer files define it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/surface.h"

namespace palu {

// Encode is what the kinds of tokenizer differ in; decoding is one table and a few rules for all.
// Immutable once loaded: any number of threads may use one tokenizer.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text` (UTF-8; ill-formed bytes become U+FFFD) without any token in front or behind.
  // The added and special tokens of a tokenizer.json are recognised in the text; a tokenizer.model
  // takes its control tokens ("<s>") for plain text.
  virtual std::vector<TokenId> Encode(std::string_view text) const = 0;

  // Id of the token spelled exactly so, special tokens included.
  virtual std::optional<TokenId> Find(std::string_view token) const = 0;

  // Text of `ids`. Special tokens are left out unless `keep_special`. Throws Error on an id outside
  // the vocabulary.
  std::string Decode(std::span<const TokenId> ids, bool keep_special = false) const;

  // Number of ids, added tokens included (one past the largest id).
  int64_t vocab_size() const { return surfaces_.size(); }

  // The token that Encode's caller puts in front of a text, or nothing where the model's files say
  // that none is wanted.
  std::optional<TokenId> bos() const { return bos_; }
  void set_bos(std::optional<TokenId> bos) { bos_ = bos; }

  // Encode with bos() in front, where there is one.
  std::vector<TokenId> EncodeWithBos(std::string_view text) const;

  const SurfaceTable& surfaces() const { return surfaces_; }

 protected:
  SurfaceTable surfaces_;
  std::optional<TokenId> bos_;
};

// Loads the tokenizer of a model directory: tokenizer.json where present, else tokenizer.model;
// tokenizer_config.json (add_bos_token, bos_token) and the post-processor decide on BOS; a bare
// tokenizer.model means BOS. `bos_token_id` is config.json's, used where the files name none.
// Returns null when the directory has no tokenizer; throws Error when it has a malformed one.
std::unique_ptr<Tokenizer> LoadTokenizer(const std::filesystem::path& directory,
                                         std::optional<TokenId> bos_token_id);

// Text as it comes: holds back bytes that may still be part of an unfinished UTF-8 sequence, and
// yields exactly what Decode of all ids yields once Finish is called.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool keep_special = false);
  // New text made available by `id` (possibly empty). Throws Error on an id outside the vocabulary.
  std::string Push(TokenId id);
  // What is still held back.
  std::string Finish();

 private:
  void EmitHeldBack(bool finished, std::string* out);
  void Emit(std::string_view text, std::string* out);

  const SurfaceTable& surfaces_;
  bool keep_special_;
  bool at_first_token_ = true;
  size_t spaces_to_strip_;
  std::string held_back_;
};

}  // namespace palu
