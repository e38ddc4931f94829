#include "compress/decode_cost.h"

namespace palu {
namespace {

// scripts/decode_costs.py, one thread of an Intel Xeon with AVX-512, keys rebuilt in float32: what
// a processor without VNNI does.
constexpr double kUpEntry = 0.0167;
constexpr double kKeyTier = 25;
constexpr double kValueLatent = 0.02;
constexpr double kValueTier = 18;

}  // namespace

DecodeCost KeyCost(int64_t rows) { return {kUpEntry * static_cast<double>(rows), kKeyTier}; }

DecodeCost ValueCost(int64_t query_heads) {
  return {kValueLatent * static_cast<double>(query_heads), kValueTier};
}

}  // namespace palu
