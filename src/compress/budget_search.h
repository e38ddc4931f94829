// One allocation of a budget of bits over all layers: which latents are stored, and at how many
// bits (reverse water-filling over discrete quantisers).
//
// A unit is one latent vector of a token: a group's keys, its values, or both from one latent. Its
// components, sorted by energy (two_sided.h), are cut into blocks; every block takes a number of
// bits, none above that of the block before it; neighbouring blocks with equal bits form a tier.
#pragma once

#include <span>
#include <vector>

#include "compress/decode_cost.h"
#include "ops/latent_quantization.h"

namespace palu {

// Energies of a unit's latents, descending, in units of twice the loss per token.
using LatentEnergies = std::vector<double>;

// A group of KV heads can store its keys and values as two units or as one.
struct GroupChoices {
  LatentEnergies separate_k, separate_v, shared;
};

struct BudgetOptions {
  double bits_per_token = 0;          // codes and scales of all layers together
  std::vector<int> bits{8, 4, 3, 2};  // that a tier may have, descending
  int64_t block = 16;                 // latents; a multiple of kTierMultiple
  double window_bits = 0;             // per stored latent, for the window of recent tokens
  // What a discarded latent costs over what noise of the same energy costs: errors of truncation
  // are functions of the token and do not average out in attention.
  double truncation_price = 1;
  bool allow_shared = true, allow_separate = true;
  // What decoding pays to use keys and values; counted with `work_weight`, so that a per cent of
  // the work weighs like so many per cent of the bits. 0: bits alone count.
  DecodeCost keys = {}, values = {};
  double work_weight = 0;
};

struct GroupPlan {
  bool shared = false;
  std::vector<LatentTier> k, v;   // of the shared latent: in k
  double k_loss = 0, v_loss = 0;  // of predicted_loss
};

struct BudgetPlan {
  std::vector<std::vector<GroupPlan>> layers;  // [layers][groups]
  double bits_per_token = 0;
  double predicted_loss = 0;  // rise of the loss per token, nats
  double work = 0;            // nanoseconds of one core per cached token and decoded token
};

// Mean squared error of a tier's quantiser over the energy of a latent, normally distributed.
double QuantizerDistortion(int bits);

// The plan of least predicted loss that a Lagrange multiplier reaches within the budget; what it
// leaves is spent block by block, the largest gain per bit first, until nothing more fits or is
// worth its work. With work_weight it pays for work as well as for bits, at the rate that makes all
// of the work of the plan found without cost work_weight times the budget: it loses more and
// decodes faster. Groups of a layer choose alike between shared and separate latents, for a model
// has one down-projection per layer and side. Every unit stores at least one block. Throws Error
// when even that exceeds the budget, saying the least one that fits.
BudgetPlan SearchBudget(std::span<const std::vector<GroupChoices>> layers,
                        const BudgetOptions& options);

}  // namespace palu
