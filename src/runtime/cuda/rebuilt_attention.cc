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

void RebuiltAttention::Rebuild(const AttentionView& view, const DeviceProjection& projection,
                               bool keys, const SequencesView& sequence, int64_t first_position,
                               int64_t begin, int64_t count, LinearRunner& linear, char* out,
                               cudaStream_t stream) {
  const ProjectionView& p = projection.view;
  const int64_t width = int64_t{view.kv_heads} * view.head_dim;
  const auto size = static_cast<int64_t>(SizeOf(p.dtype));
  const int64_t heads_width = int64_t{p.heads_per_page} * view.head_dim;
  int64_t column = 0;
  if (!p.latent) {
    for (const PageView& page : projection.pages) {
      ReadPageRows(p, page, sequence.blocks, begin, count, p.dtype, out + column * size, width,
                   stream);
      column += page.width;
    }
    return;
  }
  Grow(latents_, count * p.max_width * static_cast<int64_t>(SizeOf(p.up_dtype)));
  Grow(rebuilt_, count * width);
  const DeviceMatrix rebuilt = MakeMatrix(rebuilt_.data(), DType::kF32, count, width);
  for (size_t i = 0; i < projection.pages.size(); ++i) {
    const PageView& page = projection.pages[i];
    ReadPageRows(p, page, sequence.blocks, begin, count, p.up_dtype, latents_.data(), page.width,
                 stream);
    linear.Run(MakeMatrix(latents_.data(), p.up_dtype, count, page.width),
               projection.up[i].Matrix(), nullptr, rebuilt.ColRange(column, heads_width), false,
               stream);
    column += heads_width;
  }
  FinishRebuiltRows(view, keys, first_position + begin, rebuilt_.data(), count, p.dtype, out,
                    stream);
}

void RebuiltAttention::Run(const AttentionView& view, const DeviceLayer& layer,
                           const SequencesView& sequence, int64_t first_position,
                           const PrefillChunk& chunk, const DeviceMatrix& q, LinearRunner& linear,
                           const DeviceMatrix& out, cudaStream_t stream) {
  const DType type = view.k.dtype;
  const auto size = static_cast<int64_t>(SizeOf(type));
  const int64_t width = int64_t{view.kv_heads} * view.head_dim;
  const int64_t end = chunk.start + chunk.count;
  Grow(queries_, chunk.count * q.cols * size);
  Grow(acc_, chunk.count * q.cols);
  Grow(max_, chunk.count * view.heads);
  Grow(sum_, chunk.count * view.heads);
  Grow(keys_, std::min(end, kPiece) * width * size);
  Grow(values_, std::min(end, kPiece) * width * size);
  ConvertRows(q, MakeMatrix(queries_.data(), type, chunk.count, q.cols), stream);
  const SoftmaxStates states{max_.data(), sum_.data()};
  for (int64_t begin = 0; begin < end; begin += kPiece) {
    const int64_t count = std::min(kPiece, end - begin);
    Rebuild(view, layer.k, true, sequence, first_position, begin, count, linear, keys_.data(),
            stream);
    Rebuild(view, layer.v, false, sequence, first_position, begin, count, linear, values_.data(),
            stream);
    PrefillAttention(view, chunk, {keys_.data(), values_.data(), begin, count, type},
                     queries_.data(), begin == 0, states, acc_.data(), stream);
  }
  FinishPrefill(view, chunk.count, states, acc_.data(), out.dtype, out.data, stream);
}

}  // namespace palu::cuda
