#include "ops/cpu/attention_decode.h"

#include <algorithm>

#include "ops/cpu/attention_tiles.h"
#include "ops/linear.h"
#include "ops/vector.h"

namespace palu::cpu {
namespace {

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

}  // namespace

void DecodeSplit(const AttentionLayer& layer, const QueryChunk& chunk, int64_t kv_head,
                 int64_t split, MatrixView<const float> q, AttentionWorkspace::PerWorker& scratch,
                 MatrixView<float> acc, SoftmaxState* states) {
  const int64_t group = layer.heads_per_kv();
  const int64_t d = layer.head_dim;
  scratch.queries.Resize(acc.rows, d);
  for (int64_t r = 0; r < acc.rows; ++r) {
    const float* source = q.Row(chunk.row + r / group) + (kv_head * group + r % group) * d;
    for (int64_t i = 0; i < d; ++i) scratch.queries(r, i) = source[i] * layer.scale;
    std::fill_n(acc.Row(r), acc.cols, 0.0f);
    states[r] = SoftmaxState{};
  }
  const TileReader keys(layer, layer.k, kv_head, layer.k.pages.latent, scratch.up_keys);
  scratch.scores.Resize(acc.rows, kBlockTokens);

  const int64_t end = std::min((split + 1) * kDecodeSplit, chunk.start + chunk.count);
  for (int64_t first = split * kDecodeSplit; first < end; first += kBlockTokens) {
    const int64_t tile = std::min(kBlockTokens, end - first);
    const MatrixView<float> scores = scratch.scores.View().ColRange(0, tile);
    if (layer.k.pages.latent) {
      scratch.keys.Resize(tile, d);
      keys.Read(chunk, {}, first, tile, scratch.latents, scratch.keys);
      layer.positions->Rotate(chunk.first_position + first, scratch.keys);
      DotRows(scratch.queries, {scratch.keys.data(), DType::kF32, d}, scores);
    } else {
      DotRows(scratch.queries, PageRows(chunk, layer.k.pages, kv_head, first), scores);
    }
    for (int64_t r = 0; r < acc.rows; ++r) {
      const int64_t last_key = chunk.start + r / group;
      const int64_t visible = std::clamp<int64_t>(last_key + 1 - first, 0, tile);
      Scale(Absorb(&states[r], scores.Row(r), visible), acc.Row(r), acc.cols);
      std::fill(scores.Row(r) + visible, scores.Row(r) + tile, 0.0f);
    }
    AccumulateRows(scores, PageRows(chunk, layer.v.pages, kv_head, first), acc);
  }
}

void FinishDecode(const AttentionLayer& layer, const QueryChunk& chunk, int64_t kv_head,
                  int64_t splits, MatrixView<float> acc, SoftmaxState* states,
                  MatrixView<float> out) {
  const int64_t group = layer.heads_per_kv();
  const int64_t rows = chunk.count * group;
  int64_t column = 0;
  for (int64_t h = 0; h < kv_head * group; ++h) column += layer.output_width(h);
  const int64_t width = layer.output_width(kv_head * group);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t s = 1; s < splits; ++s) {
      Merge(&states[r], acc.Row(r), states[s * rows + r], acc.Row(s * rows + r), acc.cols);
    }
    Normalize(states[r], acc.Row(r), acc.cols);
    float* target = out.Row(chunk.row + r / group) + column + r % group * width;
    if (!layer.v.pages.latent || layer.fused_values) {
      std::copy_n(acc.Row(r), width, target);
      continue;
    }
    LinearOptions options;
    TensorView bias;
    if (layer.v.bias) {  // probabilities sum to one, so the bias passes through unchanged
      bias = layer.v.bias.Rows(kv_head * layer.head_dim, layer.head_dim);
      options.bias = &bias;
    }
    LinearSerial(acc.RowRange(r, 1), ValueUp(layer, kv_head), MatrixView<float>(target, 1, width),
                 options);
  }
}

}  // namespace palu::cpu
