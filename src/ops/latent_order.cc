#include "ops/latent_order.h"

#include <algorithm>
#include <numeric>

namespace palu {

std::vector<int64_t> SlotOrder(int bits, int64_t width) {
  std::vector<int64_t> order(static_cast<size_t>(width));
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto slot = [&](int64_t latent) {
    return RowSlot(bits, static_cast<int>(width), static_cast<int>(latent));
  };
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return slot(a) < slot(b); });
  return order;
}

std::vector<int64_t> RotaryBounds(const RotaryRows& rows, int64_t heads, int64_t rank) {
  const std::vector<int64_t> order = SlotOrder(rows.bits, rank);
  const auto step = [&](int64_t i) {
    return RowSlot(rows.bits, static_cast<int>(rank),
                   static_cast<int>(order[static_cast<size_t>(i)])) /
           StepElements(rows.bits);
  };
  std::vector<int64_t> bounds;
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t together = std::min(heads, (h / kRotaryHeads + 1) * kRotaryHeads);
    int64_t bound = std::min(rank, together * rows.count());
    while (bound < rank && step(bound) == step(bound - 1)) ++bound;
    bounds.push_back(bound);
  }
  return bounds;
}

std::vector<int64_t> LatentsBeyond(int bits, int64_t rank, int64_t bound) {
  std::vector<int64_t> order = SlotOrder(bits, rank);
  order.erase(order.begin(), order.begin() + bound);
  return order;
}

}  // namespace palu
