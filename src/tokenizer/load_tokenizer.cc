#include <string>
#include <string_view>

#include "base/error.h"
#include "base/mmap_file.h"
#include "tokenizer/hf_tokenizer.h"
#include "tokenizer/json_view.h"
#include "tokenizer/sentencepiece_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

std::string_view Text(const MmapFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// What tokenizer_config.json says of BOS. `otherwise` is what the tokenizer's own file says.
std::optional<TokenId> ConfiguredBos(const fs::path& path, const Tokenizer& tokenizer,
                                     std::optional<TokenId> otherwise,
                                     std::optional<TokenId> bos_token_id) {
  const MmapFile file = MmapFile::Open(path);
  const JsonDocument document(Text(file), path.string());
  const JsonView add = document.root().At("add_bos_token");
  if (add.is_null()) return otherwise;
  if (!add.BoolOr(false)) return std::nullopt;
  const JsonView field = document.root().At("bos_token");
  if (!field.is_null()) {
    const JsonView name = field.is_string() ? field : field.At("content");
    const auto id = tokenizer.Find(name.String());
    if (!id) name.FailExpected("a token of the vocabulary");
    return id;
  }
  if (otherwise) return otherwise;
  if (!bos_token_id) field.FailExpected("the token that add_bos_token asks for");
  return bos_token_id;
}

}  // namespace

std::unique_ptr<Tokenizer> LoadTokenizer(const fs::path& directory,
                                         std::optional<TokenId> bos_token_id) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (const fs::path path = directory / "tokenizer.json"; fs::exists(path)) {
    tokenizer = ParseHfTokenizer(Text(MmapFile::Open(path)), path.string());
  } else if (const fs::path model = directory / "tokenizer.model"; fs::exists(model)) {
    tokenizer = ParseSentencePiece(Text(MmapFile::Open(model)), model.string());
    if (!tokenizer->bos()) tokenizer->set_bos(bos_token_id);
  } else {
    return nullptr;
  }
  if (const fs::path config = directory / "tokenizer_config.json"; fs::exists(config)) {
    tokenizer->set_bos(ConfiguredBos(config, *tokenizer, tokenizer->bos(), bos_token_id));
  }
  return tokenizer;
}

}  // namespace palu
