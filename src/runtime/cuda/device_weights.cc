#include "runtime/cuda/device_weights.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "ops/convert.h"
#include "runtime/cuda/half_weights.h"

namespace palu::cuda {
namespace {

constexpr int64_t kStagingBytes = int64_t{16} << 20;

// Copies tensors in pieces through two pinned buffers, so that filling one overlaps copying the
// other.
class Uploader {
 public:
  explicit Uploader(cudaStream_t stream) : stream_(stream) {
    for (auto& buffer : staging_) buffer.Resize(kStagingBytes);
  }
  ~Uploader() { cudaStreamSynchronize(stream_); }

  // `to` has room for the tensor's elements in `dtype`.
  void Copy(const TensorView& from, DType dtype, char* to) {
    const auto source = static_cast<int64_t>(SizeOf(from.dtype));
    const auto target = static_cast<int64_t>(SizeOf(dtype));
    const int64_t piece = kStagingBytes / std::max<int64_t>(target, 4);
    for (int64_t at = 0; at < from.size(); at += piece) {
      const int64_t n = std::min(piece, from.size() - at);
      const auto* bytes = static_cast<const char*>(from.data) + at * source;
      const size_t slot = turn_++ % 2;
      copied_[slot].Wait();
      Convert(bytes, from.dtype, n, dtype, staging_[slot].data());
      Check(cudaMemcpyAsync(to + at * target, staging_[slot].data(),
                            static_cast<size_t>(n * target), cudaMemcpyHostToDevice, stream_),
            "uploading weights");
      copied_[slot].Record(stream_);
    }
  }

  // Matrices stacked by rows, or vectors end to end.
  DeviceTensor Stack(std::span<const TensorView> parts, DType dtype) {
    int64_t rows = 0;
    const int64_t cols = parts.front().cols();
    for (const TensorView& part : parts) rows += part.rows();
    DeviceTensor tensor(dtype, rows, cols);
    char* to = tensor.data();
    for (const TensorView& part : parts) {
      assert(part.cols() == cols);
      Copy(part, dtype, to);
      to += part.size() * static_cast<int64_t>(SizeOf(dtype));
    }
    return tensor;
  }
  DeviceTensor Tensor(const TensorView& view, DType dtype) {
    return view ? Stack(std::array{view}, dtype) : DeviceTensor();
  }

 private:
  void Convert(const char* from, DType from_type, int64_t n, DType to_type, char* to) {
    if (from_type == to_type) {
      std::memcpy(to, from, static_cast<size_t>(n) * SizeOf(to_type));
      return;
    }
    floats_.Resize(n);
    ToFloat(from, from_type, n, floats_.data());
    FromFloat(floats_.data(), n, to_type, to);
  }

  cudaStream_t stream_;
  std::array<PinnedBuffer<char>, 2> staging_;
  std::array<Event, 2> copied_;
  AlignedBuffer<float> floats_;
  size_t turn_ = 0;
};

// Biases of stacked projections, zeros where a part has none; empty when no part has one.
DeviceTensor StackBiases(Uploader& uploader,
                         std::initializer_list<std::pair<const TensorView*, int64_t>> parts) {
  bool any = false;
  for (const auto& [bias, n] : parts) any |= static_cast<bool>(*bias);
  if (!any) return {};
  std::vector<std::vector<float>> zeros;
  std::vector<TensorView> views;
  zeros.reserve(parts.size());
  for (const auto& [bias, n] : parts) {
    if (n == 0) continue;
    if (*bias) {
      views.push_back(*bias);
      continue;
    }
    const auto& data = zeros.emplace_back(static_cast<size_t>(n), 0.0f);
    views.push_back({data.data(), DType::kF32, {n}, kCpu});
  }
  return uploader.Stack(views, DType::kF32);
}

// Returns the bytes of all tiers in a block.
int32_t PlaceTiers(const CachedPages::Page& page, PageView& to) {
  Require(std::ssize(page.tiers) <= kMaxTiers,
          "on a GPU: expected at most {} tiers of bits in a latent, found {}", kMaxTiers,
          page.tiers.size());
  int32_t bytes = 0;
  for (const PageTier& tier : page.tiers) {
    to.tiers[to.tier_count++] = {static_cast<int32_t>(tier.offset - page.offset),
                                 static_cast<int32_t>(tier.width),
                                 static_cast<int32_t>(tier.column), tier.quantization.bits};
    bytes += to.tiers[to.tier_count - 1].bytes();
  }
  return bytes;
}

// Keys, whose U DecodeAttention wants packed, come with the head_dim; values with 0.
DeviceProjection UploadProjection(Uploader& uploader, const CachedPages& pages,
                                  const ProjectionWeights& weights, const TensorView& norm,
                                  float eps, int64_t pack_head_dim, int32_t queries,
                                  cudaStream_t stream) {
  DeviceProjection p{UploadPages(pages, stream), {}, {}, {}, {}, {}};
  ProjectionView& view = p.view;
  if (pages.latent) {  // a plain projection has bias and norm applied before it is stored
    view.rotary_basis = true;
    for (size_t i = 0; i < p.pages.size(); ++i) {
      p.up.push_back(uploader.Tensor(weights.up[i], view.up_dtype));
      p.pages[i].up = p.up.back().data();
      const int32_t width = p.pages[i].width;
      if ((pack_head_dim == 64 || pack_head_dim == 128) && SizeOf(view.up_dtype) == 2 &&
          width % 16 == 0) {
        p.packed_up.emplace_back(view.up_dtype, view.heads_per_page * pack_head_dim, width);
        p.pages[i].packed_up = p.packed_up.back().data();
        PackUp(p.pages[i].up, view.heads_per_page, static_cast<int32_t>(pack_head_dim), width,
               p.packed_up.back().data(), stream);
      }
      const int64_t bytes = SplitUpBytes(view, static_cast<int32_t>(pack_head_dim), queries);
      if (bytes > 0) {
        p.split_up.emplace_back(DType::kF16, 1, bytes / 2);
        p.pages[i].split_up = p.split_up.back().data();
        PackSplitUp(view, p.pages[i], static_cast<int32_t>(pack_head_dim), queries,
                    p.split_up.back().data(), stream);
      }
      view.rotary_basis &= HasRotaryBasis(view, p.pages[i], weights.up[i],
                                          static_cast<int32_t>(pack_head_dim), queries);
    }
    p.device_pages.Upload(p.pages.data(), view.page_count, stream);
    p.bias = uploader.Tensor(weights.bias, DType::kF32);
    view.bias = p.bias.AsFloat();
  }
  p.norm = uploader.Tensor(norm, DType::kF32);
  view.norm = p.norm.AsFloat();
  view.norm_eps = eps;
  return p;
}

DeviceLayer UploadLayer(Uploader& uploader, const ModelConfig& config, const LayerWeights& w,
                        const LayerCacheLayout& layout, DType dtype, cudaStream_t stream) {
  DeviceLayer layer;
  const auto eps = static_cast<float>(config.rms_norm_eps);
  layer.k = UploadProjection(uploader, layout.k, w.k, w.k_norm, eps, config.head_dim,
                             static_cast<int32_t>(config.num_heads / config.num_kv_heads), stream);
  layer.v = UploadProjection(uploader, layout.v, w.v, {}, eps, 0, 0, stream);
  layer.input_norm = uploader.Tensor(w.input_norm, DType::kF32);
  layer.post_norm = uploader.Tensor(w.post_norm, DType::kF32);
  layer.q_norm = uploader.Tensor(w.q_norm, DType::kF32);
  const auto in = [](const ProjectionWeights& p) { return p.factored() ? p.down : p.dense; };
  const auto bias = [](const ProjectionWeights& p) {
    return p.factored() ? &p.down_bias : &p.bias;
  };
  layer.shared_latents = layout.shared;
  std::vector<TensorView> qkv{w.q, in(w.k)};
  if (!layout.shared) qkv.push_back(in(w.v));
  layer.qkv = uploader.Stack(qkv, dtype);
  layer.qkv_bias = StackBiases(uploader, {{&w.q_bias, config.q_size()},
                                          {bias(w.k), layer.k.width},
                                          {bias(w.v), layout.shared ? 0 : layer.v.width}});
  layer.o = uploader.Tensor(w.o, dtype);
  layer.o_bias = uploader.Tensor(w.o_bias, DType::kF32);
  layer.gate_up = uploader.Stack(std::array{w.gate, w.up}, dtype);
  layer.gate_up_bias = StackBiases(
      uploader, {{&w.gate_bias, config.intermediate_size}, {&w.up_bias, config.intermediate_size}});
  layer.down = uploader.Tensor(w.down, dtype);
  layer.down_bias = uploader.Tensor(w.down_bias, DType::kF32);
  return layer;
}

}  // namespace

DeviceTensor::DeviceTensor(DType dtype, int64_t rows, int64_t cols)
    : dtype_(dtype), rows_(rows), cols_(cols) {
  bytes_.Resize(rows * cols * static_cast<int64_t>(SizeOf(dtype)));
}

void DeviceTensor::Reinterpret(DType dtype) {
  assert(SizeOf(dtype) == SizeOf(dtype_));
  dtype_ = dtype;
}

const float* DeviceTensor::AsFloat() const {
  assert(!bytes_.data() || dtype_ == DType::kF32);
  return reinterpret_cast<const float*>(bytes_.data());
}

DevicePages UploadPages(const CachedPages& pages, cudaStream_t stream) {
  DevicePages p;
  const LatentQuantization& q = pages.quantization;
  ProjectionView& view = p.view;
  view.page_count = static_cast<int32_t>(pages.pages.size());
  view.heads_per_page = static_cast<int32_t>(pages.heads_per_page);
  view.latent = pages.latent;
  view.bits = pages.tiered ? kTiers : pages.quantized() ? q.bits : 16;
  view.run = static_cast<int32_t>(q.group);
  view.symmetric = q.symmetric;
  view.dtype = pages.dtype;
  view.up_dtype = pages.quantized() && pages.dtype != DType::kF32 ? DType::kF16 : pages.dtype;
  for (const CachedPages::Page& page : pages.pages) {
    PageView& to = p.pages.emplace_back();
    to.offset = page.offset;
    to.width = static_cast<int32_t>(page.width);
    to.column = static_cast<int32_t>(p.width);
    to.window_offset = page.window_offset;
    view.max_tier_bytes = std::max(view.max_tier_bytes, PlaceTiers(page, to));
    view.max_width = std::max(view.max_width, p.pages.back().width);
    view.width_divisor =
        static_cast<int32_t>(std::gcd(p.width == 0 ? 0 : view.width_divisor, page.width));
    p.width += page.width;
  }
  p.device_pages.Resize(view.page_count);
  p.device_pages.Upload(p.pages.data(), view.page_count, stream);
  view.pages = p.device_pages.data();
  return p;
}

DeviceWeights UploadWeights(const Model& model, const CacheLayout& layout,
                            std::optional<DType> dtype, cudaStream_t stream) {
  const ModelConfig& config = model.config();
  const ModelWeights& w = model.weights();
  DeviceWeights weights;
  weights.dtype = dtype.value_or(w.embedding.dtype);
  Uploader uploader(stream);
  weights.embedding = uploader.Tensor(w.embedding, weights.dtype);
  weights.final_norm = uploader.Tensor(w.final_norm, DType::kF32);
  if (!config.tied_embeddings) weights.lm_head = uploader.Tensor(w.lm_head, weights.dtype);
  for (int64_t l = 0; l < config.num_layers; ++l) {
    weights.layers.push_back(UploadLayer(uploader, config, w.layers[static_cast<size_t>(l)],
                                         layout.layer(l), weights.dtype, stream));
  }
  if (!dtype && weights.dtype == DType::kBF16) TakeHalf(config, weights, stream);
  return weights;
}

}  // namespace palu::cuda
