#include "compress/decode_cost.h"

namespace palu {
namespace {

// scripts/decode_costs.py, one thread of an Intel Xeon with AVX-512.
constexpr double kUpEntry = 0.030;
constexpr double kKeyTier = 33;
constexpr double kValueLatent = 0.08;
constexpr double kValueTier = 5;

}  // namespace

DecodeCost KeyCost(int64_t rows) { return {kUpEntry * static_cast<double>(rows), kKeyTier}; }

DecodeCost ValueCost(int64_t query_heads) {
  return {kValueLatent * static_cast<double>(query_heads), kValueTier};
}

}  // namespace palu
