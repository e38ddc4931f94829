// SentencePiece's own tokenizer.model, as Llama's tokenizer uses it.
#pragma once

#include <memory>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace palu {

// `model` holds the bytes of a tokenizer.model, `file` its name for messages. Control tokens that
// occur in a text ("<s>") are plain text: only ids can mean them. BOS is the model's own, if any.
// Throws Error when the model is malformed.
std::unique_ptr<Tokenizer> ParseSentencePiece(std::string_view model, std::string_view file);

}  // namespace palu
