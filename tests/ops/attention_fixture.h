// A layer's random cache, weights and queries, for the attention tests of every device.
#pragma once

#include "ops/attention.h"
#include "ops/latent_order.h"
#include "ops/ops_testing.h"
#include "ops/reference/attention.h"
#include "ops/rope.h"

namespace palu::testing {

struct AttentionShapes {
  const char* name;
  int64_t heads, kv_heads, head_dim, group;
  std::vector<int64_t> k_ranks, v_ranks;  // per group; empty: plain
  bool bias = false, norm = false, fused = false;
  int64_t first_position = 0;
  LatentQuantization quantization = {};
  // As kernels of a device want it: U in the type of their operands, keys never from U in int8.
  bool device = false;
  int64_t v_group = 0;       // KV heads per page of values; 0: as for keys
  float up_scale = 1;        // standard deviation of U
  int64_t rotary_pairs = 0;  // keys' U has the zeros of the rotary basis; 0: none
  double theta = 10000;
  bool split = false;  // slow rotary pairs as waves, whatever the count says of so few keys
  // Of every page of latents, instead of `quantization`; a page has as many as its rank takes.
  std::vector<LatentTier> tiers = {};
  bool shared = false;  // values from the keys' latents
  int64_t recent = 0;   // tokens that a query meets as they were
};

// Owns everything that an AttentionLayer and its chunks refer to.
class AttentionFixture {
 public:
  AttentionFixture(const AttentionShapes& s, DType cache,
                   const std::vector<std::pair<int64_t, int64_t>>& ranges)
      : theta_(s.theta),
        frequencies_(InverseFrequencies({.theta = s.theta}, s.head_dim)),
        positions_(frequencies_, RopeAngles::kFloat64, /*by_pairs=*/true) {
    layer.heads = s.heads;
    layer.kv_heads = s.kv_heads;
    layer.head_dim = s.head_dim;
    layer.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    layer.positions = &positions_;
    layer.fused_values = s.fused;
    MakeProjection(s, s.k_ranks, s.group, cache, s.bias, layer.k);
    MakeProjection(s, s.v_ranks, s.v_group > 0 ? s.v_group : s.group, cache, s.bias && !s.fused,
                   layer.v);
    if (s.shared) layer.v.pages = layer.k.pages;
    const int64_t queries = s.heads / s.kv_heads;
    if (s.split) MakeSplit(s.tiers.empty() ? LaneSplitCost(queries) : TierSplitCost(queries));
    if (!layer.k.pages.quantized()) layer.k.split = split_.get();
    if (!s.device) MakeInt8Up(layer.k);
    if (!s.device && !s.norm) MakeLaneKeys(s, layer.k);
    if (s.norm) {
      layer.k.norm = Tensor(DType::kF32, {s.head_dim});
      layer.k.norm_eps = 1e-6f;
    }
    MakeChunks(ranges, s.first_position);
    if (s.recent > 0) MakeRecent(s);
    query_values_ = RandomFloats(tokens_ * s.heads * s.head_dim, 99);
    q = {query_values_.data(), tokens_, s.heads * s.head_dim};
  }

  // What attention returns, with U_v applied when it is fused elsewhere: [tokens, heads*d].
  std::vector<double> Run(int threads) {
    ThreadPool pool(threads);
    AttentionWorkspace workspace;
    out.Resize(tokens_, layer.output_width());
    PagedAttention({pool}, layer, chunks, q, {}, recent, workspace, out);
    std::vector<double> result;
    for (int64_t t = 0; t < tokens_; ++t) {
      const float* head_out = out.Row(t);
      for (int64_t h = 0; h < layer.heads; ++h) {
        for (int64_t i = 0; i < layer.head_dim; ++i) result.push_back(ApplyUp(head_out, h, i));
        head_out += layer.output_width(h);
      }
    }
    return result;
  }

  void ExpectReference(const std::vector<double>& actual) const {
    size_t at = 0;
    for (const QueryChunk& chunk : chunks) {
      for (int64_t t = 0; t < chunk.count; ++t) {
        for (int64_t h = 0; h < layer.heads; ++h) {
          const std::span<const float> query(q.Row(chunk.row + t) + h * layer.head_dim,
                                             static_cast<size_t>(layer.head_dim));
          const std::vector<double> expected =
              reference::AttendOne(layer, chunk, query, h, t, frequencies_, recent);
          for (const double x : expected) {
            ASSERT_NEAR(actual[at++], x, Tolerance()) << "token " << t << " head " << h;
          }
        }
      }
    }
  }

  // float64 output of one query head of a chunk's only token.
  std::vector<double> Reference(const QueryChunk& chunk, int64_t head) const {
    const std::span<const float> query(q.Row(chunk.row) + head * layer.head_dim,
                                       static_cast<size_t>(layer.head_dim));
    return reference::AttendOne(layer, chunk, query, head, 0, frequencies_, recent);
  }

  double theta() const { return theta_; }
  // A score is a sum of d products of keys that are sums of r products, each term below
  // |q| |U| |h| ~ 3 * 3 * 1 after scaling; its error moves a probability by as much, relatively,
  // and the output, an average of values below |U| |h| sqrt(r) ~ 10 sqrt(r), by twice that.
  // Weights of codes in lanes keep 15 bits of the largest in their block: independent roundings of
  // at most 64, five standard deviations, in each of r latents that U_v adds up.
  double Tolerance() const {
    double r = static_cast<double>(layer.head_dim);
    for (const auto* p : {&layer.k, &layer.v}) {
      for (const auto& page : p->pages.pages) r = std::max(r, static_cast<double>(page.width));
    }
    const double score_error = kEps * std::sqrt(r * static_cast<double>(layer.head_dim)) * 9;
    const double lanes = 5 * std::sqrt(double{kBlockTokens}) / 32639 / std::sqrt(12.0);
    const double weights = layer.v.pages.quantized() && LaneKeys::Available() ? lanes : 0;
    return (2 * score_error + weights) * 10 * std::sqrt(r);
  }

  std::span<const double> frequencies() const { return frequencies_; }
  int64_t block_bytes() const { return block_bytes_; }
  int64_t window_bytes() const { return window_bytes_; }

  AttentionLayer layer;
  std::vector<QueryChunk> chunks;
  RecentRows recent;
  MatrixView<const float> q;
  Matrix<float> out;

 private:
  TensorView Tensor(DType dtype, Shape shape, float scale = 1) {
    tensors_.push_back(std::make_unique<RandomTensor>(dtype, std::move(shape), seed_++, scale));
    return tensors_.back()->view;
  }

  void MakeProjection(const AttentionShapes& s, const std::vector<int64_t>& ranks, int64_t group,
                      DType cache, bool bias, AttentionProjection& p) {
    p.pages.dtype = cache;
    p.pages.latent = !ranks.empty();
    if (!ranks.empty()) p.pages.quantization = s.quantization;
    p.pages.tiered = !ranks.empty() && !s.tiers.empty();
    p.pages.heads_per_page = ranks.empty() ? 1 : group;
    const int64_t pages = s.kv_heads / p.pages.heads_per_page;
    for (int64_t i = 0; i < pages; ++i) {
      const int64_t width = ranks.empty() ? s.head_dim : ranks[static_cast<size_t>(i)];
      p.pages.pages.push_back({block_bytes_, width});
      if (p.pages.tiered) {
        PlaceTiers(s.tiers, p.pages.pages.back());
        p.pages.pages.back().window_offset = window_bytes_;
        window_bytes_ += s.recent * width * static_cast<int64_t>(sizeof(Half));
      } else {
        block_bytes_ +=
            kBlockTokens * (p.pages.quantized() ? p.pages.quantization.bytes(width)
                                                : width * static_cast<int64_t>(SizeOf(cache)));
      }
      if (ranks.empty()) continue;
      const DType operands = p.pages.quantized() ? DType::kF16 : cache;
      p.up.push_back(
          Tensor(s.device ? operands : DType::kBF16, {group * s.head_dim, width}, s.up_scale));
    }
    if (bias && !ranks.empty()) p.bias = Tensor(DType::kF32, {s.kv_heads * s.head_dim});
    if (&p == &layer.k && s.rotary_pairs > 0) ClearBeyondRotaryBounds(s, p);
  }

  void ClearBeyondRotaryBounds(const AttentionShapes& s, AttentionProjection& p) {
    const RotaryRows rows{s.head_dim, s.rotary_pairs, p.pages.quantization.bits};
    for (const TensorView& up : p.up) {
      const std::vector<int64_t> bounds = RotaryBounds(rows, s.group, up.cols());
      auto* to = static_cast<uint16_t*>(const_cast<void*>(up.data));
      ASSERT_EQ(SizeOf(up.dtype), 2u);
      for (int64_t h = 0; h < s.group; ++h) {
        for (int64_t i = 0; i < rows.count(); ++i) {
          for (const int64_t latent :
               LatentsBeyond(rows.bits, up.cols(), bounds[static_cast<size_t>(h)])) {
            to[rows.Row(h, i) * up.cols() + latent] = 0;
          }
        }
      }
    }
  }

  void PlaceTiers(const std::vector<LatentTier>& tiers, CachedPages::Page& page) {
    int64_t column = 0;
    for (const LatentTier& tier : tiers) {
      page.tiers.push_back({block_bytes_, tier.width, column, tier.quantization()});
      block_bytes_ += kBlockTokens * tier.quantization().bytes(tier.width);
      column += tier.width;
      if (column == page.width) return;
    }
  }

  // (start, count) of every chunk; each is a sequence of its own with random pages.
  void MakeChunks(const std::vector<std::pair<int64_t, int64_t>>& ranges, int64_t first_position) {
    tables_.reserve(ranges.size());
    for (const auto& [start, count] : ranges) {
      const int64_t blocks = (start + count + kBlockTokens - 1) / kBlockTokens;
      std::vector<std::byte*>& table = tables_.emplace_back();
      for (int64_t b = 0; b < blocks; ++b) table.push_back(RandomBlock());
      chunks.push_back({{table.data()}, start, count, tokens_, first_position});
      positions_.Cover(first_position, first_position + start + count);
      tokens_ += count;
    }
  }

  // As a window keeps them.
  static std::vector<float> RandomHalves(int64_t n, uint32_t seed) {
    std::vector<float> values = RandomFloats(n, seed, 0.3f);
    for (float& x : values) {
      Half half;
      FromFloat(&x, 1, DType::kF16, &half);
      ToFloat(&half, DType::kF16, 1, &x);
    }
    return values;
  }

  // The second chunk's window lacks a few tokens, as after a truncation.
  void MakeRecent(const AttentionShapes& s) {
    int64_t rows = 0;
    for (QueryChunk& chunk : chunks) {
      const int64_t lost = &chunk == &chunks[1] ? 3 : 0;
      chunk.recent_begin = std::clamp<int64_t>(chunk.start + lost - s.recent, 0, chunk.start);
      chunk.recent_row = rows;
      rows += chunk.start + chunk.count - chunk.recent_begin;
    }
    recent_keys_ = RandomHalves(rows * layer.k.pages.width(), 98);
    recent_values_ = RandomHalves(rows * layer.v.pages.width(), 97);
    recent = {s.recent,
              {recent_keys_.data(), rows, layer.k.pages.width()},
              {(s.shared ? recent_keys_ : recent_values_).data(), rows, layer.v.pages.width()}};
  }

  std::byte* RandomBlock() {
    std::vector<std::byte>& block =
        blocks_.emplace_back(std::vector<std::byte>(static_cast<size_t>(block_bytes_)));
    std::byte* data = block.data();
    const BlockTable table{&data};
    for (const CachedPages* pages : {&layer.k.pages, &layer.v.pages}) {
      for (const CachedPages::Page& page : pages->pages) {
        const auto rows = RandomFloats(kBlockTokens * page.width, seed_++, 0.3f);
        for (int64_t t = 0; t < kBlockTokens; ++t) {
          const float* row = rows.data() + t * page.width;
          if (pages->quantized()) {
            pages->ForTiers(page, [&](const PageTier& tier) {
              EXPECT_TRUE(QuantizeRow(tier.quantization, row + tier.column, table.Packed(tier, t)));
            });
          } else {
            FromFloat(row, page.width, pages->dtype, table.Row(*pages, page, t));
          }
        }
      }
    }
    return data;
  }

  void MakeSplit(const SplitCost& cost) {
    auto split = ChooseFrequencySplit(frequencies_, kSplitTolerance, cost);
    ASSERT_TRUE(split);
    split_ = std::make_unique<LaneSplit>(*std::move(split), frequencies_);
  }

  TensorView HeadUp(const AttentionProjection& p, int64_t kv_head) const {
    const int64_t row = kv_head % p.pages.heads_per_page * layer.head_dim;
    return p.up[static_cast<size_t>(kv_head / p.pages.heads_per_page)].Rows(row, layer.head_dim);
  }

  void MakeInt8Up(AttentionProjection& p) {
    if (p.pages.tiered || !p.pages.quantized()) return;
    if (!Int8Up::Supports(p.pages.quantization)) return;
    for (int64_t h = 0; h < layer.kv_heads; ++h) {
      int8_up_.emplace_back(HeadUp(p, h), p.pages.quantization.run(p.pages.OfHead(h).width));
    }
    p.int8_up = int8_up_;
  }

  // As runtime/cpu_forward.cc does: tiers only with a split.
  void MakeLaneKeys(const AttentionShapes& s, AttentionProjection& p) {
    if (!LaneKeys::Available() || s.head_dim % 4 != 0) return;
    if (p.pages.tiered ? split_ == nullptr : int8_up_.empty()) return;
    for (int64_t h = 0; h < layer.kv_heads; ++h) {
      std::vector<float> bias(static_cast<size_t>(p.bias ? s.head_dim : 0));
      if (p.bias) ToFloat(p.bias.Rows(h * s.head_dim, s.head_dim), bias.data());
      if (p.pages.tiered) {
        lane_keys_.emplace_back(HeadUp(p, h), p.pages.OfHead(h).tiers, bias, split_.get());
        continue;
      }
      const Int8Up& up = int8_up_[static_cast<size_t>(h)];
      if (up.run() < up.width()) return lane_keys_.clear();
      lane_keys_.emplace_back(up, bias, split_.get());
    }
    p.lane_keys = lane_keys_;
  }

  double ApplyUp(const float* head_out, int64_t head, int64_t i) const {
    if (!layer.fused_values) return head_out[i];
    const int64_t kv_head = head / layer.heads_per_kv();
    const int64_t page = kv_head / layer.v.pages.heads_per_page;
    const TensorView& up = layer.v.up[static_cast<size_t>(page)];
    const int64_t row = kv_head % layer.v.pages.heads_per_page * layer.head_dim + i;
    double sum = 0;
    for (int64_t r = 0; r < up.cols(); ++r) {
      sum += reference::At(up.data, up.dtype, row * up.cols() + r) * head_out[r];
    }
    return sum;
  }

  double theta_;
  std::vector<double> frequencies_;
  PositionTable positions_;
  int64_t block_bytes_ = 0, window_bytes_ = 0, tokens_ = 0;
  uint32_t seed_ = 1;
  std::vector<Int8Up> int8_up_;
  std::unique_ptr<LaneSplit> split_;
  std::vector<LaneKeys> lane_keys_;
  std::vector<std::unique_ptr<RandomTensor>> tensors_;
  std::vector<std::vector<std::byte*>> tables_;
  std::vector<std::vector<std::byte>> blocks_;
  std::vector<float> query_values_, recent_keys_, recent_values_;
};

}  // namespace palu::testing
