// Architectures of well-known models, for timing their shapes with random weights.
#pragma once

#include <span>
#include <string_view>

#include "model/config.h"

namespace palu {

// "llama-2-7b", "llama-3-8b", "llama-3.2-1b", "mistral-7b" (v0.3), "qwen2.5-7b".
std::span<const std::string_view> PresetNames();

// The published configuration; nullopt for an unknown name.
std::optional<ModelConfig> Preset(std::string_view name);

}  // namespace palu
