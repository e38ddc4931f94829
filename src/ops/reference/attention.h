// Attention over the paged cache in plain float64 loops: the specification of ops/attention.h.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "ops/attention.h"
#include "ops/reference/reference.h"

namespace palu::reference {

// The numbers of a page's row, dequantised where it holds codes.
inline std::vector<double> StoredRow(const AttentionProjection& p, const QueryChunk& chunk,
                                     const CachedPages::Page& page, int64_t token) {
  std::vector<double> row(static_cast<size_t>(page.width));
  if (!p.pages.quantized()) {
    const void* stored = chunk.table.Row(p.pages, page, token);
    for (int64_t i = 0; i < page.width; ++i) {
      row[static_cast<size_t>(i)] = At(stored, p.pages.dtype, i);
    }
    return row;
  }
  p.pages.ForTiers(page, [&](const PageTier& tier) {
    const LatentQuantization& q = tier.quantization;
    const PackedRows packed = chunk.table.Packed(tier, token);
    std::vector<uint8_t> codes(static_cast<size_t>(tier.width));
    UnpackCodes(q, packed, 1, codes.data());
    for (int64_t i = 0; i < tier.width; ++i) {
      const ScaleZero scale = ScaleOf(q, packed, 0, i / q.run(tier.width));
      row[static_cast<size_t>(tier.column + i)] =
          (codes[static_cast<size_t>(i)] - double{scale.zero}) * double{scale.scale};
    }
  });
  return row;
}

// A KV head's rows of U, [d][rank]: in int8 where the layer has it, empty for a plain projection.
inline std::vector<std::vector<double>> UpRows(const AttentionLayer& layer,
                                               const AttentionProjection& p, int64_t kv_head) {
  std::vector<std::vector<double>> rows;
  if (!p.pages.latent) return rows;
  const TensorView& up = p.up[static_cast<size_t>(kv_head / p.pages.heads_per_page)];
  const int64_t first = kv_head % p.pages.heads_per_page * layer.head_dim;
  for (int64_t i = 0; i < layer.head_dim; ++i) {
    std::vector<double>& row = rows.emplace_back();
    if (!p.int8_up.empty()) {
      const std::vector<float> rounded = p.int8_up[static_cast<size_t>(kv_head)].Row(i);
      row.assign(rounded.begin(), rounded.end());
      continue;
    }
    for (int64_t r = 0; r < up.cols(); ++r) {
      row.push_back(At(up.data, up.dtype, (first + i) * up.cols() + r));
    }
  }
  return rows;
}

// Row of one KV head at one token: k or v of width head_dim, as method.md section 2 rebuilds it.
inline std::vector<double> Rebuild(const AttentionLayer& layer, const AttentionProjection& p,
                                   const std::vector<std::vector<double>>& up, int64_t kv_head,
                                   const std::vector<double>& row) {
  if (!p.pages.latent) return row;
  std::vector<double> out(static_cast<size_t>(layer.head_dim));
  for (int64_t i = 0; i < layer.head_dim; ++i) {
    double sum = p.bias ? At(p.bias.data, p.bias.dtype, kv_head * layer.head_dim + i) : 0.0;
    const std::vector<double>& weights = up[static_cast<size_t>(i)];
    for (size_t r = 0; r < row.size(); ++r) sum += weights[r] * row[r];
    out[static_cast<size_t>(i)] = sum;
  }
  return out;
}

inline void NormAndRotate(const AttentionLayer& layer, int64_t position,
                          std::span<const double> frequencies, std::vector<double>& key) {
  if (layer.k.norm) {
    double squares = 0;
    for (const double x : key) squares += x * x;
    const double scale =
        1 / std::sqrt(squares / static_cast<double>(key.size()) + layer.k.norm_eps);
    for (size_t i = 0; i < key.size(); ++i) {
      key[i] *= scale * At(layer.k.norm.data, layer.k.norm.dtype, static_cast<int64_t>(i));
    }
  }
  const size_t half = key.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    const double c = std::cos(angle), s = std::sin(angle);
    const double x = key[i], y = key[i + half];
    key[i] = x * c - y * s;
    key[i + half] = y * c + x * s;
  }
}

// A page's row of RecentRows::k or v.
inline std::vector<double> RecentRow(const AttentionProjection& p, const QueryChunk& chunk,
                                     MatrixView<const float> recent, int64_t kv_head,
                                     int64_t token) {
  const float* row = recent.Row(chunk.recent_row + token - chunk.recent_begin);
  for (int64_t i = 0; i < kv_head / p.pages.heads_per_page; ++i) {
    row += p.pages.pages[static_cast<size_t>(i)].width;
  }
  return {row, row + p.pages.OfHead(kv_head).width};
}

// Output [head_dim] of one query head of the chunk's token `t`; values rebuilt, never fused.
inline std::vector<double> AttendOne(const AttentionLayer& layer, const QueryChunk& chunk,
                                     std::span<const float> q, int64_t head, int64_t t,
                                     std::span<const double> frequencies,
                                     const RecentRows& recent = {}) {
  const int64_t kv_head = head / layer.heads_per_kv();
  const auto row = [&](const AttentionProjection& p, MatrixView<const float> exact, int64_t s) {
    return s >= recent.Begin(chunk, chunk.start + t)
               ? RecentRow(p, chunk, exact, kv_head, s)
               : StoredRow(p, chunk, p.pages.OfHead(kv_head), s);
  };
  const auto up_k = UpRows(layer, layer.k, kv_head), up_v = UpRows(layer, layer.v, kv_head);
  std::vector<double> scores;
  double max = -INFINITY;
  for (int64_t s = 0; s <= chunk.start + t; ++s) {
    std::vector<double> key = Rebuild(layer, layer.k, up_k, kv_head, row(layer.k, recent.k, s));
    if (layer.k.pages.latent) NormAndRotate(layer, chunk.first_position + s, frequencies, key);
    double score = 0;
    for (size_t i = 0; i < key.size(); ++i) score += key[i] * q[i];
    scores.push_back(score * layer.scale);
    max = std::max(max, scores.back());
  }
  double sum = 0;
  std::vector<double> out(static_cast<size_t>(layer.head_dim));
  for (int64_t s = 0; s <= chunk.start + t; ++s) {
    const double p = std::exp(scores[static_cast<size_t>(s)] - max);
    const std::vector<double> value =
        Rebuild(layer, layer.v, up_v, kv_head, row(layer.v, recent.v, s));
    for (size_t i = 0; i < value.size(); ++i) out[i] += p * value[i];
    sum += p;
  }
  for (double& x : out) x /= sum;
  return out;
}

}  // namespace palu::reference
