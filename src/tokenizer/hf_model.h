// The "model" and "added_tokens" of a tokenizer.json.
#pragma once

#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json_view.h"

namespace palu {

// Throws Error on anything but a sound BPE model: ids used twice or out of range, merges of unknown
// tokens, options that are not supported.
Bpe ParseBpe(const JsonView& model);

// Throws Error when an id or a content contradicts `vocabulary` or another added token.
std::vector<AddedToken> ParseAddedTokens(const JsonView& added_tokens,
                                         const Vocabulary& vocabulary);

// One past the largest id. Throws Error when the ids leave so many holes that a table of them
// would be out of proportion to the file.
size_t CountIds(const Vocabulary& vocabulary, const std::vector<AddedToken>& added_tokens,
                const JsonView& json);

}  // namespace palu
