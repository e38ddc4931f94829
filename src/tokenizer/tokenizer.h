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

namespace palu {

using TokenId = int32_t;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text` (UTF-8; ill-formed bytes become U+FFFD) without any token in front or behind.
  // Added and special tokens that occur in the text are recognised.
  virtual std::vector<TokenId> Encode(std::string_view text) const = 0;

  // Text of `ids`. Special tokens are left out unless `keep_special`. Throws Error on an id outside
  // the vocabulary.
  virtual std::string Decode(std::span<const TokenId> ids, bool keep_special = false) const = 0;

  // Number of ids, added tokens included (one past the largest id).
  virtual int64_t vocab_size() const = 0;

  // The token that Encode's caller puts in front of a text, or nothing where the model's files say
  // that none is wanted.
  std::optional<TokenId> bos() const { return bos_; }

  // Encode with bos() in front, where there is one.
  std::vector<TokenId> EncodeWithBos(std::string_view text) const;

 protected:
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
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // New text made available by `id` (possibly empty).
  std::string Push(TokenId id);
  // What is still held back.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<TokenId> ids_;
  size_t prefix_ = 0;   // ids_[prefix_..] are decoded together to give context
  size_t emitted_ = 0;  // bytes of that decoding already handed out
};

}  // namespace palu
