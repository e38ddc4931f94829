#include "ops/cpu/attention_tiles.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "linalg/gemm.h"
#include "ops/convert.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/vector.h"

namespace palu::cpu {
namespace {

// Up to so many rows, such as those of a window of recent tokens, a call of the library's GEMM
// costs more than its products.
constexpr int64_t kFewRows = 16;

int64_t ColumnOf(const CachedPages& pages, int64_t kv_head) {
  int64_t column = 0;
  for (int64_t p = 0; p < kv_head / pages.heads_per_page; ++p) {
    column += pages.pages[static_cast<size_t>(p)].width;
  }
  return column;
}

// Calls rows(token, count) for the parts of [begin, end) that lie in one block each.
template <class Rows>
void ForBlocks(int64_t begin, int64_t end, const Rows& rows) {
  for (int64_t token = begin; token < end;) {
    const int64_t count = std::min(end - token, kBlockTokens - token % kBlockTokens);
    rows(token, count);
    token += count;
  }
}

}  // namespace

void LoadCodes(const QueryChunk& chunk, const PageTier& part, int64_t begin, int64_t count,
               CodeTile& tile) {
  tile.Resize(part.quantization, part.width, count);
  ForBlocks(begin, begin + count, [&](int64_t token, int64_t n) {
    tile.Load(part.quantization, chunk.table.Packed(part, token), token - begin, n);
  });
}

TileReader::TileReader(const AttentionLayer& layer, const AttentionProjection& projection,
                       int64_t kv_head, bool rebuild, Matrix<float>& up_scratch)
    : projection_(projection),
      page_(projection.pages.OfHead(kv_head)),
      head_dim_(layer.head_dim),
      fresh_column_(ColumnOf(projection.pages, kv_head)),
      rebuild_(rebuild) {
  if (!rebuild_) return;
  if (projection.bias) {
    bias_.resize(static_cast<size_t>(head_dim_));
    ToFloat(projection.bias.Rows(kv_head * head_dim_, head_dim_), bias_.data());
  }
  if (!projection.int8_up.empty()) {
    int8_up_ = &projection.int8_up[static_cast<size_t>(kv_head)];
    return;
  }
  const int64_t page = kv_head / projection.pages.heads_per_page;
  const int64_t row = kv_head % projection.pages.heads_per_page * head_dim_;
  stored_up_ = projection.up[static_cast<size_t>(page)].Rows(row, head_dim_);
  if (stored_up_.dtype == DType::kF32) {
    up_ = {stored_up_.As<float>(), head_dim_, page_.width};
  } else {
    up_scratch.Resize(head_dim_, page_.width);
    ToFloat(stored_up_, up_scratch.data());
    up_ = up_scratch;
  }
}

void TileReader::Read(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin,
                      int64_t count, Scratch& scratch, MatrixView<float> out) const {
  if (!rebuild_) return ReadRows(chunk, fresh, begin, count, out);
  LoadLatents(chunk, fresh, begin, count, scratch);
  Rebuild(scratch, out);
}

void TileReader::LoadLatents(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin,
                             int64_t count, Scratch& scratch) const {
  if (int8_up_ != nullptr) {
    LoadCodes(chunk, projection_.pages.Whole(page_), begin, count, scratch.codes);
    return;
  }
  scratch.latents.Resize(count, page_.width);
  ReadRows(chunk, fresh, begin, count, scratch.latents);
}

void TileReader::Rebuild(const Scratch& scratch, MatrixView<float> out) const {
  if (int8_up_ != nullptr) {
    int8_up_->Rebuild(scratch.codes, out.rows, out);
  } else if (out.rows <= kFewRows) {
    LinearSerial(scratch.latents, stored_up_, out);
  } else {
    Gemm(Trans::kNo, Trans::kYes, 1.0f, scratch.latents, up_, 0.0f, out);
  }
  if (!bias_.empty()) {
    for (int64_t t = 0; t < out.rows; ++t) Axpy(1.0f, bias_.data(), out.Row(t), head_dim_);
  }
  if (projection_.norm) {
    ThreadPool inline_pool(1);  // this already runs on a worker
    RmsNormHeads({inline_pool}, projection_.norm, projection_.norm_eps, out);
  }
}

void TileReader::ReadRecent(const QueryChunk& chunk, MatrixView<const float> recent, int64_t begin,
                            int64_t count, Scratch& scratch, Matrix<float>& out) const {
  out.Resize(count, width());
  if (!rebuild_) return RecentLatents(chunk, recent, begin, out);
  scratch.latents.Resize(count, page_.width);
  RecentLatents(chunk, recent, begin, scratch.latents);
  Rebuild(scratch, out);
}

void TileReader::RecentLatents(const QueryChunk& chunk, MatrixView<const float> recent,
                               int64_t begin, MatrixView<float> latents) const {
  for (int64_t t = 0; t < latents.rows; ++t) {
    std::copy_n(recent.Row(chunk.recent_row + begin + t - chunk.recent_begin) + fresh_column_,
                page_.width, latents.Row(t));
  }
}

bool TileReader::RebuildRotated(const Scratch& scratch, MatrixView<float> out) const {
  return int8_up_ != nullptr && bias_.empty() && !projection_.norm &&
         int8_up_->RebuildRotated(scratch.codes, out.rows, scratch.rotations.data(), out);
}

void TileReader::ReadRows(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin,
                          int64_t count, MatrixView<float> out) const {
  assert(out.stride == page_.width);
  const int64_t stored_end = fresh.data ? std::min(begin + count, chunk.start) : begin + count;
  const CachedPages& pages = projection_.pages;
  ForBlocks(begin, stored_end, [&](int64_t token, int64_t n) {
    float* rows = out.Row(token - begin);
    if (pages.quantized()) {
      pages.ForTiers(page_, [&](const PageTier& tier) {
        DequantizeRows(tier.quantization, chunk.table.Packed(tier, token), n, rows + tier.column,
                       page_.width);
      });
    } else {  // a page's rows are contiguous, and so are a tile's
      ToFloat(chunk.table.Row(pages, page_, token), pages.dtype, n * page_.width, rows);
    }
  });
  for (int64_t token = std::max(begin, stored_end); token < begin + count; ++token) {
    std::memcpy(out.Row(token - begin), fresh.Row(chunk.row + token - chunk.start) + fresh_column_,
                static_cast<size_t>(page_.width) * sizeof(float));
  }
}

}  // namespace palu::cpu
