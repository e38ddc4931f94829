#include "ops/cpu/attention_decode.h"

#include <algorithm>
#include <vector>

#include "ops/cpu/attention_lanes.h"
#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/attention_waves.h"
#include "ops/cpu/lane_values.h"
#include "ops/linear.h"
#include "ops/vector.h"

namespace palu::cpu {
namespace {

using Scratch = AttentionWorkspace::PerWorker;

StoredRows PageRows(const QueryChunk& chunk, const CachedPages& pages, int64_t kv_head,
                    int64_t token) {
  const CachedPages::Page& page = pages.OfHead(kv_head);
  return {chunk.table.Row(pages, page, token), pages.dtype, page.width};
}

// This head's rows of U_v: [d, rank].
TensorView ValueUp(const AttentionLayer& layer, int64_t kv_head) {
  const int64_t heads_per_page = layer.v.pages.heads_per_page;
  return layer.v.up[static_cast<size_t>(kv_head / heads_per_page)].Rows(
      kv_head % heads_per_page * layer.head_dim, layer.head_dim);
}

void GatherQueries(const DecodeUnit& unit, MatrixView<const float> q, Matrix<float>& queries) {
  const int64_t group = unit.layer.heads_per_kv(), d = unit.layer.head_dim;
  queries.Resize(unit.rows(), d);
  for (int64_t r = 0; r < unit.rows(); ++r) {
    const int64_t kv_head = unit.first_head + r / unit.rows_per_head();
    const int64_t row = r % unit.rows_per_head();
    const float* source = q.Row(unit.chunk.row + row / group) + (kv_head * group + row % group) * d;
    for (int64_t i = 0; i < d; ++i) queries(r, i) = source[i] * unit.layer.scale;
  }
}

// Whether slow pairs of quantised keys are waves: with it goes rounding the weights of values.
bool ByWaves(const DecodeUnit& unit) {
  const std::span<const LaneKeys> keys = unit.layer.k.lane_keys;
  return !keys.empty() && keys.front().split() != nullptr;
}

// The pages of the block after the one at `first`: codes of a block are short and lie apart, so
// the machine does not foresee them.
void PrefetchNext(const DecodeUnit& unit, const CachedPages& pages, int64_t first) {
  const int64_t next = first + kBlockTokens;
  if (!pages.quantized() || next >= unit.chunk.start + unit.chunk.count) return;
  for (int64_t h = 0; h < unit.heads(); h += pages.heads_per_page) {
    pages.ForTiers(pages.OfHead(unit.first_head + h), [&](const PageTier& tier) {
      const uint8_t* data = unit.chunk.table.Packed(tier, next).codes;
      const int64_t bytes = kBlockTokens * tier.quantization.bytes(tier.width);
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i);
    });
  }
}

// scores [rows, tile]: queries of the unit times keys from token `first` on, rebuilt one by one.
void ScoreRebuiltTile(const DecodeUnit& unit, std::span<const TileReader> keys, int64_t first,
                      Scratch& scratch, MatrixView<float> scores) {
  if (ScoreTileByWaves(unit, keys, first, scratch, scores)) return;
  const CachedPages& pages = unit.layer.k.pages;
  const int64_t rows = unit.rows_per_head(), d = unit.layer.head_dim;
  if (!unit.layer.k.int8_up.empty()) {
    scratch.rotations.resize(static_cast<size_t>(scores.cols));
    unit.layer.positions->Rows(unit.chunk.first_position + first, scratch.rotations);
  }
  for (int64_t h = 0; h < unit.heads(); ++h) {
    const auto queries = scratch.queries.View().RowRange(h * rows, rows);
    const auto head_scores = scores.RowRange(h * rows, rows);
    if (!pages.latent) {
      DotRows(queries, PageRows(unit.chunk, pages, unit.first_head + h, first), head_scores);
      continue;
    }
    const TileReader& reader = keys[static_cast<size_t>(h)];
    if (h % pages.heads_per_page == 0) {
      reader.LoadLatents(unit.chunk, {}, first, scores.cols, scratch);
      const int64_t stored = unit.RecentBegin(first, scores.cols) - first;
      if (stored < scores.cols) {
        reader.RecentLatents(unit.chunk, unit.recent.k, first + stored,
                             scratch.latents.View().RowRange(stored, scores.cols - stored));
      }
    }
    scratch.keys.Resize(scores.cols, d);
    if (!reader.RebuildRotated(scratch, scratch.keys)) {
      reader.Rebuild(scratch, scratch.keys);
      unit.layer.positions->Rotate(unit.chunk.first_position + first, scratch.keys);
    }
    DotRows(queries, {scratch.keys.data(), DType::kF32, d}, head_scores);
  }
}

// scores [rows, tile]: queries of the unit times keys from token `first` on. In lanes only stored
// keys; those met as they were are rebuilt.
void ScoreTile(const DecodeUnit& unit, std::span<const TileReader> keys, int64_t first,
               Scratch& scratch, MatrixView<float> scores) {
  PrefetchNext(unit, unit.layer.k.pages, first);
  int64_t stored = 0;
  if (!unit.layer.k.lane_keys.empty()) {
    stored = unit.RecentBegin(first, scores.cols) - first;
    if (stored > 0) ScoreTileInLanes(unit, first, scratch, scores.ColRange(0, stored));
  }
  if (stored == scores.cols) return;
  ScoreRebuiltTile(unit, keys, first + stored, scratch,
                   scores.ColRange(stored, scores.cols - stored));
}

// sums += p times the stored values of one page from token `first` on.
void AddCodes(const DecodeUnit& unit, const CachedPages::Page& page, int64_t first,
              MatrixView<const float> p, Scratch& scratch, MatrixView<float> sums) {
  unit.layer.v.pages.ForTiers(page, [&](const PageTier& tier) {
    const auto columns = sums.ColRange(tier.column, tier.width);
    if (ByWaves(unit) &&
        AccumulateCodesInLanes(p, tier.quantization, unit.chunk.table.Packed(tier, first),
                               scratch.lanes, columns)) {
      return;
    }
    LoadCodes(unit.chunk, tier, first, p.cols, scratch.codes);
    AccumulateCodes(p, scratch.codes, scratch.weighted, columns);
  });
}

// acc += probabilities times values from token `first` on.
void AddValues(const DecodeUnit& unit, int64_t first, MatrixView<const float> probabilities,
               Scratch& scratch, MatrixView<float> acc) {
  const CachedPages& pages = unit.layer.v.pages;
  const int64_t rows = unit.rows_per_head() * pages.heads_per_page;
  PrefetchNext(unit, pages, first);
  for (int64_t h = 0; h < unit.heads(); h += pages.heads_per_page) {
    const CachedPages::Page& page = pages.OfHead(unit.first_head + h);
    const int64_t row = h * unit.rows_per_head();
    const auto p = probabilities.RowRange(row, rows);
    const auto sums = acc.RowRange(row, rows).ColRange(0, page.width);
    if (pages.quantized()) {
      const int64_t stored = unit.RecentBegin(first, p.cols) - first;
      if (stored > 0) AddCodes(unit, page, first, p.ColRange(0, stored), scratch, sums);
      if (stored < p.cols) {
        const TileReader reader(unit.layer, unit.layer.v, unit.first_head + h, false,
                                scratch.up_values);
        reader.ReadRecent(unit.chunk, unit.recent.v, first + stored, p.cols - stored, scratch,
                          scratch.recent_values);
        AccumulateRows(p.ColRange(stored, p.cols - stored),
                       {scratch.recent_values.data(), DType::kF32, page.width}, sums);
      }
    } else {
      AccumulateRows(p, PageRows(unit.chunk, pages, unit.first_head + h, first), sums);
    }
  }
}

void WriteHead(const DecodeUnit& unit, int64_t kv_head, MatrixView<float> sums,
               MatrixView<float> out) {
  const AttentionLayer& layer = unit.layer;
  const int64_t group = layer.heads_per_kv();
  int64_t column = 0;
  for (int64_t h = 0; h < kv_head * group; ++h) column += layer.output_width(h);
  const int64_t width = layer.output_width(kv_head * group);
  LinearOptions options;
  TensorView bias;
  if (layer.v.bias) {  // probabilities sum to one, so the bias passes through unchanged
    bias = layer.v.bias.Rows(kv_head * layer.head_dim, layer.head_dim);
    options.bias = &bias;
  }
  for (int64_t r = 0; r < sums.rows; ++r) {
    float* target = out.Row(unit.chunk.row + r / group) + column + r % group * width;
    if (!layer.v.pages.latent || layer.fused_values) {
      std::copy_n(sums.Row(r), width, target);
    } else {
      LinearSerial(sums.RowRange(r, 1), ValueUp(layer, kv_head),
                   MatrixView<float>(target, 1, width), options);
    }
  }
}

}  // namespace

int64_t DecodeUnit::HeadsPerUnit(const AttentionLayer& layer) {
  return std::max(layer.k.pages.heads_per_page, layer.v.pages.heads_per_page);
}

int64_t DecodeUnit::width() const {
  int64_t width = 0;
  for (int64_t h = 0; h < heads(); ++h) {
    width = std::max(width, layer.v.pages.OfHead(first_head + h).width);
  }
  return width;
}

void DecodeSplit(const DecodeUnit& unit, int64_t split, MatrixView<const float> q, Scratch& scratch,
                 MatrixView<float> acc, SoftmaxState* states) {
  const QueryChunk& chunk = unit.chunk;
  const int64_t group = unit.layer.heads_per_kv();
  GatherQueries(unit, q, scratch.queries);
  for (int64_t r = 0; r < acc.rows; ++r) {
    std::fill_n(acc.Row(r), acc.cols, 0.0f);
    states[r] = SoftmaxState{};
  }
  std::vector<TileReader> keys;
  scratch.unit_up_keys.resize(static_cast<size_t>(unit.heads()));
  const int64_t begin = split * kDecodeSplit;
  const int64_t end = std::min(begin + kDecodeSplit, chunk.start + chunk.count);
  const bool rebuilds =
      unit.layer.k.lane_keys.empty() || unit.RecentBegin(begin, end - begin) < end;
  if (unit.layer.k.pages.latent && rebuilds) {
    for (int64_t h = 0; h < unit.heads(); ++h) {
      keys.emplace_back(unit.layer, unit.layer.k, unit.first_head + h, true,
                        scratch.unit_up_keys[static_cast<size_t>(h)]);
    }
  }
  scratch.scores.Resize(acc.rows, kBlockTokens);

  for (int64_t first = begin; first < end; first += kBlockTokens) {
    const int64_t tile = std::min(kBlockTokens, end - first);
    const MatrixView<float> scores = scratch.scores.View().ColRange(0, tile);
    ScoreTile(unit, keys, first, scratch, scores);
    for (int64_t r = 0; r < acc.rows; ++r) {
      const int64_t last_key = chunk.start + r % unit.rows_per_head() / group;
      const int64_t visible = std::clamp<int64_t>(last_key + 1 - first, 0, tile);
      const float factor = Absorb(&states[r], scores.Row(r), visible);
      if (factor != 1) Scale(factor, acc.Row(r), acc.cols);
      std::fill(scores.Row(r) + visible, scores.Row(r) + tile, 0.0f);
    }
    AddValues(unit, first, scores, scratch, acc);
  }
}

void FinishDecode(const DecodeUnit& unit, int64_t splits, MatrixView<float> acc,
                  SoftmaxState* states, MatrixView<float> out) {
  const int64_t rows = unit.rows();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t s = 1; s < splits; ++s) {
      Merge(&states[r], acc.Row(r), states[s * rows + r], acc.Row(s * rows + r), acc.cols);
    }
    Normalize(states[r], acc.Row(r), acc.cols);
  }
  const int64_t per_head = unit.rows_per_head();
  for (int64_t h = 0; h < unit.heads(); ++h) {
    const int64_t kv_head = unit.first_head + h;
    const int64_t width = unit.layer.v.pages.OfHead(kv_head).width;
    WriteHead(unit, kv_head, acc.RowRange(h * per_head, per_head).ColRange(0, width), out);
  }
}

}  // namespace palu::cpu
