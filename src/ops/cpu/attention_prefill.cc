#include "ops/cpu/attention_prefill.h"

#include <algorithm>
#include <utility>

#include "linalg/gemm.h"
#include "ops/cpu/attention_tiles.h"
#include "ops/vector.h"

namespace palu::cpu {
namespace {

constexpr int64_t kKeyTile = 256;   // keys per tile: scores of a row block stay in L2
constexpr int64_t kRowBlock = 128;  // query rows (token, head) that share a tile of scores

// Rows are (token, query head of this KV head), token-major, so a row block covers few tokens.
struct Rows {
  const AttentionLayer& layer;
  const QueryChunk& chunk;
  int64_t kv_head, begin;

  int64_t group() const { return layer.heads_per_kv(); }
  int64_t token(int64_t row) const { return begin + row / group(); }  // within the chunk
  int64_t head(int64_t row) const { return kv_head * group() + row % group(); }
  int64_t last_key(int64_t row) const { return chunk.start + token(row); }  // causal limit
};

void GatherQueries(const Rows& rows, MatrixView<const float> q, MatrixView<float> out) {
  const int64_t d = rows.layer.head_dim;
  for (int64_t r = 0; r < out.rows; ++r) {
    const float* source = q.Row(rows.chunk.row + rows.token(r)) + rows.head(r) * d;
    for (int64_t i = 0; i < d; ++i) out(r, i) = source[i] * rows.layer.scale;
  }
}

// Recent tokens [begin, end) of a tile that starts at token `first`, for a block of rows from `r0`
// on, of which each meets some of them as they were.
struct Band {
  const Rows& rows;
  const RecentRows& recent;
  int64_t first, r0, begin, end;

  int64_t count() const { return std::max<int64_t>(0, end - begin); }
  // Of a row of the block.
  int64_t RowBegin(int64_t r) const {
    return std::max(begin, recent.Begin(rows.chunk, rows.last_key(r0 + r)));
  }
  int64_t RowEnd(int64_t r) const { return std::min(end, rows.last_key(r0 + r) + 1); }

  // scores [rows, tile]: of recent tokens from `near` [rows, count()].
  void TakeRecent(MatrixView<const float> near, MatrixView<float> scores) const {
    for (int64_t r = 0; r < scores.rows; ++r) {
      for (int64_t t = RowBegin(r); t < RowEnd(r); ++t) scores(r, t - first) = near(r, t - begin);
    }
  }
  // Moves the probabilities of recent tokens into `near`, whose other ones are zero.
  void GiveRecent(MatrixView<float> probabilities, MatrixView<float> near) const {
    for (int64_t r = 0; r < near.rows; ++r) {
      std::fill_n(near.Row(r), near.cols, 0.0f);
      for (int64_t t = RowBegin(r); t < RowEnd(r); ++t) {
        near(r, t - begin) = std::exchange(probabilities(r, t - first), 0.0f);
      }
    }
  }
};

}  // namespace

void PrefillHead(const AttentionLayer& layer, const QueryChunk& chunk, int64_t kv_head,
                 int64_t begin, int64_t count, MatrixView<const float> q, FreshRows fresh,
                 const RecentRows& recent, AttentionWorkspace::PerWorker& scratch,
                 MatrixView<float> out) {
  const Rows rows{layer, chunk, kv_head, begin};
  const int64_t n = count * rows.group();
  const TileReader keys(layer, layer.k, kv_head, layer.k.pages.latent, scratch.up_keys);
  const TileReader values(layer, layer.v, kv_head, layer.v.pages.latent && !layer.fused_values,
                          scratch.up_values);
  const int64_t width = values.width();
  scratch.queries.Resize(n, layer.head_dim);
  GatherQueries(rows, q, scratch.queries);
  scratch.accumulator.Resize(n, width);
  scratch.accumulator.Fill(0);
  scratch.states.assign(static_cast<size_t>(n), SoftmaxState{});

  const int64_t end = chunk.start + begin + count;
  for (int64_t first = 0; first < end; first += kKeyTile) {
    const int64_t tile = std::min(kKeyTile, end - first);
    scratch.keys.Resize(tile, layer.head_dim);
    keys.Read(chunk, fresh.k, first, tile, scratch, scratch.keys);
    if (layer.k.pages.latent) {
      layer.positions->Rotate(chunk.first_position + first, scratch.keys);
    }
    scratch.values.Resize(tile, width);
    values.Read(chunk, fresh.v, first, tile, scratch, scratch.values);
    // Recent tokens as they were, for the queries near enough: [exact, first + tile).
    const int64_t exact = recent.tokens > 0 ? std::clamp(recent.Begin(chunk, chunk.start + begin),
                                                         first, first + tile)
                                            : first + tile;
    if (exact < first + tile) {
      const int64_t near = first + tile - exact;
      keys.ReadRecent(chunk, recent.k, exact, near, scratch, scratch.recent_keys);
      layer.positions->Rotate(chunk.first_position + exact, scratch.recent_keys);
      values.ReadRecent(chunk, recent.v, exact, near, scratch, scratch.recent_values);
    }

    for (int64_t r0 = 0; r0 < n; r0 += kRowBlock) {
      const int64_t block = std::min(kRowBlock, n - r0);
      const int64_t seen = std::min(tile, rows.last_key(r0 + block - 1) + 1 - first);
      if (seen <= 0) continue;
      scratch.scores.Resize(block, seen);
      Gemm(Trans::kNo, Trans::kYes, 1.0f, scratch.queries.View().RowRange(r0, block),
           scratch.keys.View().RowRange(0, seen), 0.0f, scratch.scores);
      const Band band{
          rows,        recent, first, r0, std::max(exact, recent.Begin(chunk, rows.last_key(r0))),
          first + seen};
      if (band.count() > 0) {
        scratch.recent_scores.Resize(block, band.count());
        Gemm(Trans::kNo, Trans::kYes, 1.0f, scratch.queries.View().RowRange(r0, block),
             scratch.recent_keys.View().RowRange(band.begin - exact, band.count()), 0.0f,
             scratch.recent_scores);
        band.TakeRecent(scratch.recent_scores, scratch.scores);
      }
      for (int64_t r = 0; r < block; ++r) {
        float* scores = scratch.scores.Row(r);
        const int64_t visible = std::clamp<int64_t>(rows.last_key(r0 + r) + 1 - first, 0, seen);
        SoftmaxState& state = scratch.states[static_cast<size_t>(r0 + r)];
        Scale(Absorb(&state, scores, visible), scratch.accumulator.Row(r0 + r), width);
        std::fill(scores + visible, scores + seen, 0.0f);
      }
      if (band.count() > 0) band.GiveRecent(scratch.scores, scratch.recent_scores);
      Gemm(Trans::kNo, Trans::kNo, 1.0f, scratch.scores, scratch.values.View().RowRange(0, seen),
           1.0f, scratch.accumulator.View().RowRange(r0, block));
      if (band.count() > 0) {
        Gemm(Trans::kNo, Trans::kNo, 1.0f, scratch.recent_scores,
             scratch.recent_values.View().RowRange(band.begin - exact, band.count()), 1.0f,
             scratch.accumulator.View().RowRange(r0, block));
      }
    }
  }

  int64_t column = 0;
  for (int64_t h = 0; h < kv_head * rows.group(); ++h) column += layer.output_width(h);
  for (int64_t r = 0; r < n; ++r) {
    float* target = out.Row(chunk.row + rows.token(r)) + column + r % rows.group() * width;
    Normalize(scratch.states[static_cast<size_t>(r)], scratch.accumulator.Row(r), width);
    std::copy_n(scratch.accumulator.Row(r), width, target);
  }
}

}  // namespace palu::cpu
