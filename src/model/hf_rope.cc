#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/hf_config_parts.h"

namespace palu {
namespace {

constexpr int64_t kMaxPosition = int64_t{1} << 31;

std::string RopeType(const JsonObject& rope) {
  return rope.String(rope.Has("rope_type") ? "rope_type" : "type", "default");
}

void ParseScaling(const JsonObject& rope, RopeConfig& result) {
  const std::string type = RopeType(rope);
  if (type == "default") return;
  if (type != "linear" && type != "llama3") {
    rope.Mismatch(rope.Has("rope_type") ? "rope_type" : "type", "default, linear or llama3",
                  fmt::format("\"{}\"", type));
  }
  result.factor = rope.Positive("factor");
  result.scaling = RopeScaling::kLinear;
  if (type == "linear") return;
  result.scaling = RopeScaling::kLlama3;
  result.low_freq_factor = rope.Positive("low_freq_factor");
  result.high_freq_factor = rope.Positive("high_freq_factor");
  result.original_max_position = rope.Int("original_max_position_embeddings", 1, kMaxPosition);
  if (!(result.low_freq_factor < result.high_freq_factor)) {
    rope.Mismatch("high_freq_factor", "more than low_freq_factor",
                  fmt::format("{}", result.high_freq_factor));
  }
}

void RequireFullRotation(const JsonObject& object) {
  const double part = object.Positive("partial_rotary_factor", 1.0);
  if (part != 1.0) {
    object.Mismatch("partial_rotary_factor", "1 (every dimension rotates)",
                    fmt::format("{}", part));
  }
}

}  // namespace

RopeConfig ParseRope(const JsonObject& config) {
  RopeConfig result;
  RequireFullRotation(config);
  result.theta = config.Positive("rope_theta", result.theta);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!config.Has(key)) continue;
    const JsonObject rope = config.Object(key);
    for (const char* kind : {"full_attention", "sliding_attention"}) {
      if (rope.Has(kind))
        rope.Mismatch(kind, "one set of parameters for all layers", "one per kind");
    }
    RequireFullRotation(rope);
    result.theta = rope.Positive("rope_theta", result.theta);
    ParseScaling(rope, result);
    break;
  }
  return result;
}

}  // namespace palu
