#include "compress/decode_cost.h"

namespace palu {
namespace {

// scripts/decode_costs.py, one thread of an AMD EPYC (Zen 5, AVX-512 VNNI): tiers read in lanes.
constexpr double kUpEntry = 0.0028;
constexpr double kKeyTier = 16;
constexpr double kValueLatent = 0.018;
constexpr double kValueTier = 2.9;

}  // namespace

DecodeCost KeyCost(int64_t rows) { return {kUpEntry * static_cast<double>(rows), kKeyTier}; }

DecodeCost ValueCost(int64_t query_heads) {
  return {kValueLatent * static_cast<double>(query_heads), kValueTier};
}

}  // namespace palu
