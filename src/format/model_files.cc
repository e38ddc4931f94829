#include "format/model_files.h"

#include <array>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace palu {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

constexpr auto kNames = std::to_array<std::string_view>(
    {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
     "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
     "generation_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "Notice",
     "USE_POLICY.md"});

}  // namespace

void CopyCompanionFiles(const fs::path& from, const fs::path& to) {
  std::error_code ignored;
  for (const std::string_view name : kNames) {
    if (fs::exists(from / name, ignored)) CopyFile(from / name, to / name);
  }
}

std::string ReadConfigText(const fs::path& directory) {
  return ReadTextFile(directory / "config.json", kMaxConfigBytes);
}

}  // namespace palu
