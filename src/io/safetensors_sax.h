// Reads the JSON of a safetensors header straight into entries: memory stays proportional to what
// is kept, and anything that is not of the header's fixed form stops the parser where it stands.
#pragma once

#include <string_view>

#include "io/safetensors_header.h"

namespace palu {

// Fills entries (in the order of the text) and metadata. Throws Error.
void ReadSafetensorsJson(std::string_view text, std::string_view where, SafetensorsHeader& header);

}  // namespace palu
