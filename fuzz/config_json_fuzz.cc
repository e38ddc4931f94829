// config.json, and the rewriting of one that was accepted.
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "format/config_text.h"
#include "model/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const palu::ModelConfig config = palu::ParseConfig(text, "config.json");
    const std::string dense =
        palu::WithoutCompression(text, "config.json", config.family, std::nullopt);
    if (palu::ParseConfig(dense, "dense").compression) std::abort();
    if (config.compression) {
      const std::string again = palu::WithCompression(dense, "dense", *config.compression);
      const auto reread = palu::ParseConfig(again, "again").compression;
      if (!reread || reread->layers.size() != config.compression->layers.size()) std::abort();
    }
  } catch (const palu::Error&) {
  }
  return 0;
}
