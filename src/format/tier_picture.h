// How a tiered cache is cut, as lines of text.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"

namespace palu {

// A caption and a line per layer and latent: "layer 3 k+v  844433322222....": one character per 16
// latents, the digit their bits, a dot where nothing is stored, groups apart by a blank. Empty for
// a model without tiers.
std::vector<std::string> TierPicture(const ModelConfig& config);

}  // namespace palu
