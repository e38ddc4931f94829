// The README.md of a compressed directory, in the form the Hugging Face hub shows.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/config.h"

namespace palu {

// A line of the table of measured figures: what was measured, and the value with its unit.
using Figures = std::vector<std::pair<std::string, std::string>>;

// `config` has its compression. Pipes and line breaks in `figures` are made harmless.
std::string MakeModelCard(const std::string& title, const ModelConfig& config,
                          const Figures& figures);

}  // namespace palu
