#include "ops/cpu/attention_waves.h"

#include "ops/rope.h"
#include "ops/vector.h"

namespace palu::cpu {
namespace {

using Scratch = AttentionWorkspace::PerWorker;

// W [rows * terms, rank] of one head's queries for the run whose first token has these cosines and
// sines: coefficients of the slow pairs times their rows of U.
void MakeWaves(const LaneSplit& split, MatrixView<const float> queries, const float* anchor,
               MatrixView<const float> up, Scratch& scratch, Matrix<float>& waves) {
  const int64_t half = queries.cols / 2, exact = split.split.exact_pairs, slow = half - exact;
  const int64_t terms = split.split.terms, count = queries.rows * terms;
  const float *cos = anchor + exact, *sin = anchor + half + exact;
  scratch.coefficients.Resize(count, 2 * slow);
  for (int64_t i = 0; i < count; ++i) {
    const float* q = queries.Row(i / terms) + exact;
    const float *re = split.re.Row(i % terms), *im = split.im.Row(i % terms);
    float* out = scratch.coefficients.Row(i);
    for (int64_t f = 0; f < slow; ++f) {  // c conj(q) e^{i theta p}
      const float a = q[f] * cos[f] + q[half + f] * sin[f];
      const float b = q[f] * sin[f] - q[half + f] * cos[f];
      out[f] = re[f] * a - im[f] * b;
      out[slow + f] = -(re[f] * b + im[f] * a);
    }
  }
  waves.Resize(count, up.cols);
  waves.Fill(0);
  const MatrixView<const float> coefficients = scratch.coefficients;
  AccumulateRows(coefficients.ColRange(0, slow), {up.Row(exact), DType::kF32, up.stride}, waves);
  AccumulateRows(coefficients.ColRange(slow, slow), {up.Row(half + exact), DType::kF32, up.stride},
                 waves);
}

// The first `pairs` pairs of the keys, rotated, times the queries.
void ScoreExactPairs(const DecodeUnit& unit, int64_t pairs, int64_t first,
                     MatrixView<const float> queries, MatrixView<const float> up, Scratch& scratch,
                     MatrixView<float> scores) {
  const int64_t half = unit.layer.head_dim / 2;
  const PositionTable& positions = *unit.layer.positions;
  Matrix<float>& keys = scratch.keys;
  keys.Resize(scores.cols, 2 * pairs);
  for (const int64_t part : {0, 1}) {
    DotRows(scratch.latents, {up.Row(part * half), DType::kF32, up.stride},
            keys.View().ColRange(part * pairs, pairs));
  }
  for (int64_t t = 0; t < keys.rows(); ++t) {
    const int64_t position = unit.chunk.first_position + first + t;
    ApplyRope(keys.Row(t), 1, pairs, positions.Cos(position), positions.Sin(position));
  }
  Matrix<float>& exact = scratch.coefficients;  // the same pairs of the queries
  exact.Resize(queries.rows, 2 * pairs);
  for (int64_t r = 0; r < queries.rows; ++r) {
    std::copy_n(queries.Row(r), pairs, exact.Row(r));
    std::copy_n(queries.Row(r) + half, pairs, exact.Row(r) + pairs);
  }
  DotRows(exact, {keys.data(), DType::kF32, keys.cols()}, scores);
}

}  // namespace

bool ScoreTileByWaves(const DecodeUnit& unit, std::span<const TileReader> keys, int64_t first,
                      Scratch& scratch, MatrixView<float> scores) {
  const LaneSplit* split = unit.layer.k.split;
  if (split == nullptr) return false;
  const int64_t run = split->split.block_tokens, begin = first / run * run;
  const int64_t tokens = std::min(run, unit.chunk.start + unit.chunk.count - begin);
  const int64_t rows = unit.rows_per_head(), terms = split->split.terms;
  if (!WaveSplitCost(rows).Pays(split->split, tokens)) return false;
  scratch.waves.resize(static_cast<size_t>(unit.heads()));
  for (int64_t h = 0; h < unit.heads(); ++h) {
    const TileReader& reader = keys[static_cast<size_t>(h)];
    if (h % unit.layer.k.pages.heads_per_page == 0) {
      reader.LoadLatents(unit.chunk, {}, first, scores.cols, scratch);
    }
    const MatrixView<const float> queries = scratch.queries.View().RowRange(h * rows, rows);
    const MatrixView<float> head_scores = scores.RowRange(h * rows, rows);
    Matrix<float>& waves = scratch.waves[static_cast<size_t>(h)];
    if (first == begin) {
      MakeWaves(*split, queries, unit.layer.positions->Cos(unit.chunk.first_position + first),
                reader.up(), scratch, waves);
    }
    if (split->split.exact_pairs > 0) {
      ScoreExactPairs(unit, split->split.exact_pairs, first, queries, reader.up(), scratch,
                      head_scores);
    } else {
      for (int64_t r = 0; r < rows; ++r) std::fill_n(head_scores.Row(r), scores.cols, 0.0f);
    }
    scratch.wave_scores.Resize(rows * terms, scores.cols);
    DotRows(waves, {scratch.latents.data(), DType::kF32, scratch.latents.cols()},
            scratch.wave_scores);
    for (int64_t i = 0; i < rows * terms; ++i) {
      const float* wave = split->waves.Row(i % terms) + (first - begin);
      const float* sums = scratch.wave_scores.Row(i);
      float* to = head_scores.Row(i / terms);
      for (int64_t t = 0; t < scores.cols; ++t) to[t] += wave[t] * sums[t];
    }
  }
  return true;
}

}  // namespace palu::cpu
