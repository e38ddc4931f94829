#include "ops/cpu/attention_lanes.h"

#include "ops/cpu/attention_tiles.h"

namespace palu::cpu {
namespace {

// The run of tokens that shares the waves, cut at multiples of its length from the sequence's
// start; null where that many keys and queries cost less rebuilt.
const LaneSplit* SplitOf(const DecodeUnit& unit, int64_t first, int64_t* run_begin) {
  const LaneSplit* split = unit.layer.k.lane_keys.front().split();
  if (split == nullptr) return nullptr;
  const int64_t tokens = split->split.block_tokens;
  *run_begin = first / tokens * tokens;
  const int64_t end = std::min(*run_begin + tokens, unit.chunk.start + unit.chunk.count);
  const SplitCost cost = LaneSplitCost(unit.rows_per_head());
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
  scratch.rotations.resize(static_cast<size_t>(scores.cols));
  positions.Rows(unit.chunk.first_position + first, scratch.rotations);
  scratch.lane_rotations.Load(scratch.rotations, half,
                              split != nullptr ? split->split.exact_pairs : half);
  scratch.lane_waves.resize(static_cast<size_t>(unit.heads()));
  for (int64_t h = 0; h < unit.heads(); ++h) {
    const int64_t kv_head = unit.first_head + h;
    if (h % pages.heads_per_page == 0) {
      LoadCodes(unit.chunk, pages.Whole(pages.OfHead(kv_head)), first, scores.cols, scratch.codes);
      scratch.lane_tile.Load(scratch.codes, scores.cols);
    }
    const LaneKeys& keys = unit.layer.k.lane_keys[static_cast<size_t>(kv_head)];
    const auto queries = scratch.queries.View().RowRange(h * rows, rows);
    LaneWaves& waves = scratch.lane_waves[static_cast<size_t>(h)];
    if (split != nullptr && first == run_begin) {
      keys.MakeWaves(queries, positions.Cos(unit.chunk.first_position + first), scratch.lanes,
                     waves);
    }
    keys.Scores(scratch.lane_tile, scratch.lane_rotations, queries,
                split != nullptr ? &waves : nullptr, first - run_begin, scratch.lanes,
                scores.RowRange(h * rows, rows));
  }
}

}  // namespace palu::cpu
