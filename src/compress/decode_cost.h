// What decoding pays for latents in tiers, beyond their bytes: time per cached token and group of
// KV heads to rebuild keys and to sum values.
#pragma once

#include <cstdint>

namespace palu {

// Nanoseconds of one CPU core.
struct DecodeCost {
  double latent = 0;  // per stored latent
  double tier = 0;    // per tier

  friend DecodeCost operator+(DecodeCost a, DecodeCost b) {
    return {a.latent + b.latent, a.tier + b.tier};
  }
};

// Keys of `rows` dimensions rebuilt from each latent, for all queries together.
DecodeCost KeyCost(int64_t rows);

// Values of `query_heads` summed as latents, each by itself; U comes after the sum.
DecodeCost ValueCost(int64_t query_heads);

}  // namespace palu
