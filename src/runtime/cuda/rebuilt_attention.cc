#include "runtime/cuda/rebuilt_attention.h"

#include <algorithm>

#include "ops/cuda/row_ops.h"

namespace palu::cuda {
namespace {

template <class T>
void Grow(DeviceBuffer<T>& buffer, int64_t size) {
  buffer.Resize(std::max(buffer.size(), size));
}

}  // namespace

struct RebuiltAttention::Piece {
  const AttentionView& view;
  const SequencesView& sequence;
  int64_t first_position;
  const RecentLatents* recent;  // where latents come from; null: the cache
  LinearRunner& linear;
  cudaStream_t stream;
  int64_t begin = 0, count = 0;  // tokens
};

void RebuiltAttention::Rebuild(const Piece& piece, const DeviceProjection& projection, bool keys,
                               char* out) {
  const AttentionView& view = piece.view;
  const ProjectionView& p = projection.view;
  const int64_t width = int64_t{view.kv_heads} * view.head_dim;
  const auto size = static_cast<int64_t>(SizeOf(p.dtype));
  const int64_t heads_width = int64_t{p.heads_per_page} * view.head_dim;
  int64_t column = 0;
  if (!p.latent) {
    for (const PageView& page : projection.pages) {
      ReadPageRows(p, page, piece.sequence.blocks, piece.begin, piece.count, p.dtype,
                   out + column * size, width, piece.stream);
      column += page.width;
    }
    return;
  }
  Grow(latents_, piece.count * p.max_width * static_cast<int64_t>(SizeOf(p.up_dtype)));
  Grow(rebuilt_, piece.count * width);
  const DeviceMatrix rebuilt = MakeMatrix(rebuilt_.data(), DType::kF32, piece.count, width);
  for (size_t i = 0; i < projection.pages.size(); ++i) {
    const PageView& page = projection.pages[i];
    DeviceMatrix latents = MakeMatrix(latents_.data(), p.up_dtype, piece.count, page.width);
    if (piece.recent) {
      latents = (keys ? piece.recent->k : piece.recent->v)
                    .RowRange(piece.begin - piece.recent->first, piece.count)
                    .ColRange(page.column, page.width);
    } else {
      ReadPageRows(p, page, piece.sequence.blocks, piece.begin, piece.count, p.up_dtype,
                   latents_.data(), page.width, piece.stream);
    }
    piece.linear.Run(latents, projection.up[i].Matrix(), nullptr,
                     rebuilt.ColRange(column, heads_width), false, piece.stream);
    column += heads_width;
  }
  FinishRebuiltRows(view, keys, piece.first_position + piece.begin, rebuilt_.data(), piece.count,
                    p.dtype, out, piece.stream);
}

void RebuiltAttention::Add(Piece piece, const DeviceLayer& layer, int64_t begin, int64_t end,
                           const PrefillChunk& chunk) {
  const DType type = piece.view.k.dtype;
  const int64_t bytes = std::min(end - begin, kPiece) * piece.view.kv_heads * piece.view.head_dim *
                        static_cast<int64_t>(SizeOf(type));
  Grow(keys_, bytes);
  Grow(values_, bytes);
  for (piece.begin = begin; piece.begin < end; piece.begin += kPiece) {
    piece.count = std::min(kPiece, end - piece.begin);
    Rebuild(piece, layer.k, true, keys_.data());
    Rebuild(piece, layer.v, false, values_.data());
    PrefillAttention(
        piece.view, chunk, {keys_.data(), values_.data(), piece.begin, piece.count, type},
        queries_.data(), first_, {max_.data(), sum_.data()}, acc_.data(), piece.stream);
    first_ = false;
  }
}

void RebuiltAttention::Run(const AttentionView& view, const DeviceLayer& layer,
                           const SequencesView& sequence, int64_t first_position,
                           const PrefillChunk& chunk, const RecentLatents& recent,
                           const DeviceMatrix& q, LinearRunner& linear, const DeviceMatrix& out,
                           cudaStream_t stream) {
  const DType type = view.k.dtype;
  const int64_t end = chunk.start + chunk.count;
  Grow(queries_, chunk.count * q.cols * static_cast<int64_t>(SizeOf(type)));
  Grow(acc_, chunk.count * q.cols);
  Grow(max_, chunk.count * view.heads);
  Grow(sum_, chunk.count * view.heads);
  ConvertRows(q, MakeMatrix(queries_.data(), type, chunk.count, q.cols), stream);
  first_ = true;
  const Piece piece{view, sequence, first_position, nullptr, linear, stream};
  if (recent.tokens == 0) {
    Add(piece, layer, 0, end, chunk);
  } else {
    PrefillChunk far = chunk, near = chunk;
    far.band = {.skipped = recent.tokens, .seen = recent.begin};
    near.band = {.begin = recent.begin, .last = recent.tokens};
    Add(piece, layer, 0, std::max(recent.begin, end - recent.tokens), far);
    Piece exact = piece;
    exact.recent = &recent;
    Add(exact, layer, recent.first, end, near);
  }
  FinishPrefill(view, chunk.count, {max_.data(), sum_.data()}, acc_.data(), out.dtype, out.data,
                stream);
}

}  // namespace palu::cuda
