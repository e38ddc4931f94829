// config.json of the Hugging Face families this project runs, and of compressed directories.
#pragma once

#include <filesystem>
#include <string_view>

#include "model/config.h"

namespace palu {

// Parses the text of a config.json; `where` names it in errors. Accepts model_type llama, mistral,
// qwen2, qwen3 and the published Palu code's palullama, palumistral, paluqwen2 (head_wise_ranks);
// rope_theta + rope_scaling or rope_parameters; a kv_compression section of format version 1.
// Throws Error for an unknown architecture, rope type or dtype, a sliding window in use, an
// activation other than silu, and for sizes that are missing, not positive or do not divide.
ModelConfig ParseConfig(std::string_view json, std::string_view where);

// Reads DIR/config.json, and the end-of-text ids of DIR/generation_config.json where present.
ModelConfig LoadConfig(const std::filesystem::path& directory);

}  // namespace palu
