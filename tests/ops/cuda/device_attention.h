// An AttentionFixture's layer, cache and queries in device memory, and decode attention over them.
#pragma once

#include <cmath>
#include <numbers>
#include <optional>
#include <span>
#include <vector>

#include "cuda_testing.h"
#include "ops/attention_fixture.h"
#include "ops/cuda/attention.h"
#include "runtime/cuda/attention_view.h"

namespace palu::testing {

// One token per chunk. What lies behind a sequence's last token is NaN in device memory.
class DeviceAttention {
 public:
  DeviceAttention(AttentionFixture& fixture, float norm_eps, int64_t first_position)
      : fixture_(fixture), first_position_(static_cast<int32_t>(first_position)) {
    const AttentionLayer& layer = fixture.layer;
    view.heads = static_cast<int32_t>(layer.heads);
    view.kv_heads = static_cast<int32_t>(layer.kv_heads);
    view.head_dim = static_cast<int32_t>(layer.head_dim);
    view.scale = layer.scale;
    UploadRope();
    UploadProjection(layer.k, view.k);
    UploadProjection(layer.v, view.v);
    view.shared_latents = layer.k.pages.pages[0].offset == layer.v.pages.pages[0].offset;
    if (layer.k.norm) {
      view.k.norm = Keep<float>(layer.k.norm);
      view.k.norm_eps = norm_eps;
    }
    PoisonTails();
    for (const QueryChunk& chunk : fixture.chunks) UploadWindow(chunk);
  }

  // Output [chunks, heads*d] of the chunks with the given indices, as one batch.
  std::vector<float> Run(const std::vector<size_t>& chunks, DType out_dtype = DType::kF32) {
    const auto count = static_cast<int32_t>(chunks.size());
    size_t stride = 0;
    for (const size_t c : chunks) stride = std::max(stride, addresses_[c].size());
    std::vector<std::byte*> table;
    std::vector<std::byte*> windows;
    std::vector<int32_t> lengths, positions, begins;
    std::vector<float> q;
    const int64_t width = view.heads * view.head_dim;
    for (const size_t c : chunks) {
      table.insert(table.end(), addresses_[c].begin(), addresses_[c].end());
      table.resize(table.size() + stride - addresses_[c].size(), nullptr);
      lengths.push_back(static_cast<int32_t>(fixture_.chunks[c].start) + 1);
      positions.push_back(first_position_);
      begins.push_back(static_cast<int32_t>(fixture_.chunks[c].recent_begin));
      windows.push_back(windows_[c]);
      const float* row = fixture_.q.Row(fixture_.chunks[c].row);
      q.insert(q.end(), row, row + width);
      q.resize(q.size() + kGap, std::nanf(""));
    }
    const auto device_table = ToDevice(table);
    const auto device_lengths = ToDevice(lengths), device_positions = ToDevice(positions);
    const auto device_windows = ToDevice(windows);
    const auto device_begins = ToDevice(begins);
    const auto device_q = ToDevice(q);
    const int64_t bytes = count * width * static_cast<int64_t>(SizeOf(out_dtype));
    const auto out = Poison(bytes);
    const auto workspace = Poison(static_cast<int64_t>(
        cuda::DecodeWorkspaceBytes(view, count, count * static_cast<int64_t>(stride))));
    cuda::DecodeAttention(view,
                          {device_table.data(),
                           static_cast<int32_t>(stride),
                           device_lengths.data(),
                           device_positions.data(),
                           count,
                           {device_windows.data(), device_begins.data(),
                            static_cast<int32_t>(fixture_.recent.tokens)}},
                          device_q.data(), width + kGap, workspace.data(), out_dtype, out.data(),
                          nullptr);
    return Loaded(ToHost(out), out_dtype);
  }

  // Keys are met by rows made from the queries, where the layer allows it.
  void UseFrequencySplit() {
    split_.emplace(RopeConfig{.theta = fixture_.theta()}, view.head_dim, view.heads_per_kv(),
                   kSplitTolerance, nullptr);
    view.split = split_->split();
  }

  cuda::AttentionView view;

 private:
  static constexpr int64_t kGap = 24;  // between rows of q

  template <class T>
  const T* Keep(const TensorView& tensor) {
    const auto* bytes = static_cast<const std::byte*>(tensor.data);
    return reinterpret_cast<const T*>(KeepBytes({bytes, bytes + tensor.bytes()}));
  }
  std::byte* KeepBytes(const std::vector<std::byte>& bytes) {
    return kept_.emplace_back(ToDevice(bytes)).data();
  }

  void UploadRope() {
    std::vector<double> turns;
    std::vector<float2> tile;
    for (const double f : fixture_.frequencies()) turns.push_back(f / (2 * std::numbers::pi));
    for (int64_t t = 0; t < kBlockTokens; ++t) {
      for (const double f : fixture_.frequencies()) {
        const double angle = static_cast<double>(t) * f;
        tile.push_back({static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
      }
    }
    turns_ = ToDevice(turns);
    tile_ = ToDevice(tile);
    view.rope = {turns_.data(), tile_.data(), nullptr, false};
  }

  void UploadProjection(const AttentionProjection& from, cuda::ProjectionView& to) {
    cuda::DevicePages& pages = pages_.emplace_back(cuda::UploadPages(from.pages, nullptr));
    to = pages.view;
    to.rotary_basis = to.latent;
    for (size_t i = 0; i < pages.pages.size() && to.latent; ++i) {
      cuda::PageView& page = pages.pages[i];
      EXPECT_EQ(from.up[i].dtype, to.up_dtype);
      page.up = Keep<std::byte>(from.up[i]);
      const int32_t queries = view.heads_per_kv();
      const int64_t split_bytes = cuda::SplitUpBytes(to, view.head_dim, queries);
      if (split_bytes > 0) {
        const auto& split = kept_.emplace_back(Poison(split_bytes));
        page.split_up = split.data();
        cuda::PackSplitUp(to, page, view.head_dim, queries, split.data(), nullptr);
      }
      to.rotary_basis &= cuda::HasRotaryBasis(to, page, from.up[i], view.head_dim, queries);
      const auto& packed = kept_.emplace_back(Poison(from.up[i].bytes()));
      page.packed_up = packed.data();
      cuda::PackUp(page.up, to.heads_per_page, view.head_dim, page.width, packed.data(), nullptr);
    }
    pages.device_pages.Upload(pages.pages.data(), to.page_count, nullptr);
    if (from.bias) to.bias = Keep<float>(from.bias);
  }

  // Uploads blocks, with NaN in place of the tokens that the sequence does not have.
  void PoisonTails() {
    for (const QueryChunk& chunk : fixture_.chunks) {
      const int64_t length = chunk.start + 1, blocks = (length + kBlockTokens - 1) / kBlockTokens;
      std::vector<std::byte*>& addresses = addresses_.emplace_back();
      for (int64_t b = 0; b < blocks; ++b) {
        const std::byte* from = chunk.table.blocks[b];
        std::vector<std::byte> block(from, from + fixture_.block_bytes());
        std::byte* data = block.data();
        for (int64_t t = std::max<int64_t>(length - b * kBlockTokens, 0); t < kBlockTokens; ++t) {
          PoisonToken({&data}, fixture_.layer.k.pages, t);
          PoisonToken({&data}, fixture_.layer.v.pages, t);
        }
        addresses.push_back(KeepBytes(block));
      }
    }
  }
  // The ring of a sequence's last tokens; NaN where it holds none.
  void UploadWindow(const QueryChunk& chunk) {
    std::vector<std::byte> window(static_cast<size_t>(fixture_.window_bytes()), std::byte{0xFF});
    const RecentRows& recent = fixture_.recent;
    const auto fill = [&](const CachedPages& pages, MatrixView<const float> rows) {
      if (!pages.tiered) return;
      const int64_t end = chunk.start + 1;
      for (int64_t t = std::max(chunk.recent_begin, end - recent.tokens); t < end; ++t) {
        const float* row = rows.Row(chunk.recent_row + t - chunk.recent_begin);
        for (const CachedPages::Page& page : pages.pages) {
          auto* ring = reinterpret_cast<Half*>(window.data() + page.window_offset);
          FromFloat(row, page.width, DType::kF16, ring + t % recent.tokens * page.width);
          row += page.width;
        }
      }
    };
    if (recent.tokens > 0) {
      fill(fixture_.layer.k.pages, recent.k);
      fill(fixture_.layer.v.pages, recent.v);
    }
    windows_.push_back(window.empty() ? nullptr : KeepBytes(window));
  }
  static void PoisonToken(const BlockTable& table, const CachedPages& pages, int64_t token) {
    for (const CachedPages::Page& page : pages.pages) {
      const auto fill = [](void* to, int64_t bytes) {
        std::memset(to, 0xFF, static_cast<size_t>(bytes));
      };
      if (!pages.quantized()) {
        fill(table.Row(pages, page, token), page.width * 2);
        continue;
      }
      pages.ForTiers(page, [&](const PageTier& tier) {
        const LatentQuantization& q = tier.quantization;
        const PackedRows rows = table.Packed(tier, token);
        const int64_t runs = q.runs(tier.width);
        fill(rows.codes, q.code_bytes(tier.width));
        if (q.mid_rise) return fill(rows.scale_codes, runs);
        fill(rows.scales, runs * 2);
        if (rows.zeros != nullptr) fill(rows.zeros, runs);
      });
    }
  }

  AttentionFixture& fixture_;
  int32_t first_position_;
  std::vector<cuda::DeviceBuffer<std::byte>> kept_;
  std::vector<cuda::DevicePages> pages_;
  std::vector<std::vector<std::byte*>> addresses_;  // of blocks, per chunk
  std::vector<std::byte*> windows_;                 // per chunk
  cuda::DeviceBuffer<double> turns_;
  cuda::DeviceBuffer<float2> tile_;
  std::optional<cuda::RopeTables> split_;
};

}  // namespace palu::testing
