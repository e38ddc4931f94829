#include "ops/cpu/attention_lanes.h"

namespace palu::cpu {
namespace {

// The run of tokens that shares the waves, cut at multiples of its length from the sequence's
// start; null where that many keys and queries cost less rebuilt.
const LaneSplit* SplitOf(const DecodeUnit& unit, int64_t first, int64_t* run_begin) {
  const LaneKeys& keys = unit.layer.k.lane_keys.front();
  const LaneSplit* split = keys.split();
  if (split == nullptr) return nullptr;
  const int64_t tokens = split->split.block_tokens;
  *run_begin = first / tokens * tokens;
  const int64_t end = std::min(*run_begin + tokens, unit.chunk.start + unit.chunk.count);
  const SplitCost cost = keys.cost(unit.rows_per_head());
  return cost.Pays(split->split, end - *run_begin) ? split : nullptr;
}

}  // namespace

void ScoreTileInLanes(const DecodeUnit& unit, int64_t first, AttentionWorkspace::PerWorker& scratch,
                      MatrixView<float> scores) {
  const CachedPages& pages = unit.layer.k.pages;
  const PositionTable& positions = *unit.layer.positions;
  const int64_t rows = unit.rows_per_head(), half = unit.layer.head_dim / 2;
  int64_t run_begin = 0;
  const LaneSplit* split = SplitOf(unit, first, &run_begin);
  scratch.lane_rotations.Load(positions, unit.chunk.first_position + first, scores.cols,
                              split != nullptr ? split->split.exact_pairs : half);
  scratch.lane_waves.resize(static_cast<size_t>(unit.heads()));
  for (int64_t h = 0; h < unit.heads(); ++h) {
    const int64_t kv_head = unit.first_head + h;
    if (h % pages.heads_per_page == 0) {
      size_t tiles = 0;
      pages.ForTiers(pages.OfHead(kv_head), [&](const PageTier& tier) {
        if (scratch.lane_tiles.size() <= tiles) scratch.lane_tiles.emplace_back();
        scratch.lane_tiles[tiles++].Load(tier.quantization, unit.chunk.table.Packed(tier, first),
                                         scores.cols);
      });
    }
    const LaneKeys& keys = unit.layer.k.lane_keys[static_cast<size_t>(kv_head)];
    const auto queries = scratch.queries.View().RowRange(h * rows, rows);
    LaneWaves& waves = scratch.lane_waves[static_cast<size_t>(h)];
    if (split != nullptr && first == run_begin) {
      keys.MakeWaves(queries, positions.Cos(unit.chunk.first_position + first), scratch.lanes,
                     waves);
    }
    keys.Scores(scratch.lane_tiles, scratch.lane_rotations, queries,
                split != nullptr ? &waves : nullptr, first - run_begin, scratch.lanes,
                scores.RowRange(h * rows, rows));
  }
}

}  // namespace palu::cpu
