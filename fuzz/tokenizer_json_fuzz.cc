// Any bytes as a tokenizer.json: either a tokenizer that encodes and decodes, or one Error.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "tokenizer/hf_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer =
        palu::ParseHfTokenizer({reinterpret_cast<const char*>(data), size}, "fuzz");
    const std::vector<palu::TokenId> ids =
        tokenizer->EncodeWithBos("a  abc \xE4\xB8\xAD\xFF <s> 12\n");
    const std::string text = tokenizer->Decode(ids, /*keep_special=*/true);
    palu::StreamDecoder stream(*tokenizer, /*keep_special=*/true);
    std::string streamed;
    for (palu::TokenId id : ids) streamed += stream.Push(id);
    streamed += stream.Finish();
    if (streamed != text) __builtin_trap();
  } catch (const palu::Error&) {
    // What a malformed file is expected to give.
  }
  return 0;
}
