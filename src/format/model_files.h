// The files beside the weights of a model directory.
#pragma once

#include <filesystem>
#include <string>

namespace palu {

// Copies tokenizer, generation and licence files that `from` has; weights, config.json and
// README.md are not among them. Throws Error naming the file that cannot be read or written.
void CopyCompanionFiles(const std::filesystem::path& from, const std::filesystem::path& to);

// The text of DIR/config.json.
std::string ReadConfigText(const std::filesystem::path& directory);

}  // namespace palu
