#include "ops/cpu/attention_tiles.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "linalg/gemm.h"
#include "ops/convert.h"
#include "ops/rms_norm.h"
#include "ops/vector.h"

namespace palu::cpu {
namespace {

int64_t ColumnOf(const CachedPages& pages, int64_t kv_head) {
  int64_t column = 0;
  for (int64_t p = 0; p < kv_head / pages.heads_per_page; ++p) {
    column += pages.pages[static_cast<size_t>(p)].width;
  }
  return column;
}

}  // namespace

TileReader::TileReader(const AttentionLayer& layer, const AttentionProjection& projection,
                       int64_t kv_head, bool rebuild, Matrix<float>& up_scratch)
    : projection_(projection),
      page_(projection.pages.OfHead(kv_head)),
      head_dim_(layer.head_dim),
      fresh_column_(ColumnOf(projection.pages, kv_head)),
      rebuild_(rebuild) {
  if (!rebuild_) return;
  const int64_t page = kv_head / projection.pages.heads_per_page;
  const int64_t row = kv_head % projection.pages.heads_per_page * head_dim_;
  const TensorView up = projection.up[static_cast<size_t>(page)].Rows(row, head_dim_);
  if (up.dtype == DType::kF32) {
    up_ = {up.As<float>(), head_dim_, page_.width};
  } else {
    up_scratch.Resize(head_dim_, page_.width);
    ToFloat(up, up_scratch.data());
    up_ = up_scratch;
  }
  if (projection_.bias) {
    bias_.resize(static_cast<size_t>(head_dim_));
    ToFloat(projection_.bias.Rows(kv_head * head_dim_, head_dim_), bias_.data());
  }
}

void TileReader::Read(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin,
                      int64_t count, Matrix<float>& latent_scratch, MatrixView<float> out) const {
  if (!rebuild_) return ReadRows(chunk, fresh, begin, count, out);
  latent_scratch.Resize(count, page_.width);
  ReadRows(chunk, fresh, begin, count, latent_scratch);
  Gemm(Trans::kNo, Trans::kYes, 1.0f, latent_scratch, up_, 0.0f, out);
  if (!bias_.empty()) {
    for (int64_t t = 0; t < count; ++t) Axpy(1.0f, bias_.data(), out.Row(t), head_dim_);
  }
  if (projection_.norm) {
    ThreadPool inline_pool(1);  // this already runs on a worker
    RmsNormHeads({inline_pool}, projection_.norm, projection_.norm_eps, out);
  }
}

void TileReader::ReadRows(const QueryChunk& chunk, MatrixView<const float> fresh, int64_t begin,
                          int64_t count, MatrixView<float> out) const {
  const int64_t stored_end = fresh.data ? std::min(begin + count, chunk.start) : begin + count;
  int64_t token = begin;
  while (token < stored_end) {  // a page's rows are contiguous, and so are a tile's
    const int64_t n = std::min(stored_end - token, kBlockTokens - token % kBlockTokens);
    const std::byte* rows = chunk.table.Row(projection_.pages, page_, token);
    assert(out.stride == page_.width);
    ToFloat(rows, projection_.pages.dtype, n * page_.width, out.Row(token - begin));
    token += n;
  }
  for (; token < begin + count; ++token) {
    std::memcpy(out.Row(token - begin), fresh.Row(chunk.row + token - chunk.start) + fresh_column_,
                static_cast<size_t>(page_.width) * sizeof(float));
  }
}

}  // namespace palu::cpu
