// The parts of config.json that have their own file: rotary embeddings and compressed projections.
// Internal to io/.
#pragma once

#include "io/json_object.h"
#include "model/config.h"

namespace palu {

// From rope_parameters where present, else from rope_theta and rope_scaling.
RopeConfig ParseRope(const JsonObject& config);

// The `kv_compression` section, checked against the sizes in `model`.
KvCompression ParseKvCompression(const JsonObject& section, const ModelConfig& model);

// What head_wise_ranks of the published Palu code says, in the same terms.
KvCompression ParsePublishedRanks(const JsonObject& config, const ModelConfig& model);

}  // namespace palu
