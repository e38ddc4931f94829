#include "runtime/cuda/forward.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace palu::cuda {
namespace {

constexpr int64_t kMinBlocks = 64;  // of a block table's row, which doubles when it is too short

int64_t RoundUpToPower(int64_t n, int64_t at_least) {
  int64_t power = at_least;
  while (power < n) power *= 2;
  return power;
}

int64_t MaxBlocks(const Batch& batch) {
  int64_t blocks = 0;
  for (const Batch::Chunk& chunk : batch.chunks) {
    blocks = std::max(blocks, BlocksFor(chunk.sequence->length() + chunk.count));
  }
  return blocks;
}

bool DecodesOnly(const Batch& batch) {
  return std::all_of(batch.chunks.begin(), batch.chunks.end(),
                     [](const Batch::Chunk& chunk) { return chunk.count == 1; });
}

}  // namespace

Forward::Forward(const Model& model, const CacheLayout& layout, const Exec& exec,
                 const TransformerOptions& options)
    : model_(model),
      device_(exec.device),
      clip_ratio_(static_cast<float>(layout.quantization().clip_ratio)),
      recent_(layout.recent()),
      weights_(UploadWeights(model, layout, options.weight_dtype, stream_)),
      products_(weights_, exec.deterministic),
      head_(model.config(), weights_, products_, stream_),
      rope_tables_(model.config().rope, model.config().head_dim, model.config().heads_per_kv(),
                   model.config().split_tolerance(), stream_) {
  Require(options.fusion != ValueFusion::kOn,
          "fuse-values: on a GPU U_v is applied after attention; expected auto or off");
  const ModelConfig& config = model.config();
  // The kernels of 16 bits take exact angles, which are closer to what the model means than the
  // difference that rounding their operands makes.
  const bool float32_angles =
      options.rope_angles == RopeAngles::kFloat32 && layout.dtype() == DType::kF32;
  rope_ = rope_tables_.view(float32_angles);
  stream_.Synchronize();
  for (const DeviceLayer& layer : weights_.layers) {
    const SplitView split = options.frequency_split ? rope_tables_.split() : SplitView{};
    views_.push_back(MakeAttentionView(config, layer, rope_, split, exec.deterministic));
  }
  for (const AttentionView& view : views_) decodes_.push_back(SupportsDecode(view));
  all_decode_ = std::all_of(decodes_.begin(), decodes_.end(), [](bool decodes) { return decodes; });
}

std::string Forward::kernel() const {
  const bool latent =
      std::any_of(views_.begin(), views_.end(), [](const AttentionView& v) { return v.k.latent; });
  const auto rebuilt = std::count(decodes_.begin(), decodes_.end(), false);
  const auto split = std::count_if(views_.begin(), views_.end(), DecodesSplit);
  std::string name = latent ? "tensor-core products" : "stored keys";
  if (split == std::ssize(views_)) name = "frequency split";
  if (split > 0 && split < std::ssize(views_)) {
    name += fmt::format(", frequency split in {} of {} layers", split, views_.size());
  }
  const std::string dense = latent ? "keys rebuilt densely" : "stored keys, read densely";
  if (rebuilt == std::ssize(decodes_)) return dense + " (CUDA)";
  if (rebuilt > 0) name += fmt::format(", {} in {} of {} layers", dense, rebuilt, decodes_.size());
  return name + " (CUDA)";
}

DeviceMatrix Forward::Rows(const DeviceBuffer<char>& buffer, int64_t cols, int64_t rows) const {
  return MakeMatrix(buffer.data(), products_.RowType(rows), rows, cols);
}

DeviceMatrix Forward::Residual(const Activations& a, int64_t rows) const {
  return MakeMatrix(a.residual.data(), DType::kF32, rows, model_.config().hidden_size);
}

void Forward::Reserve(Activations& a, int64_t tokens, int32_t decoding, int64_t blocks) const {
  const ModelConfig& config = model_.config();
  if (decoding > 0) {
    size_t bytes = 0;
    for (size_t l = 0; l < views_.size(); ++l) {
      if (decodes_[l]) {
        bytes = std::max(bytes, DecodeWorkspaceBytes(views_[l], decoding, blocks));
      }
    }
    a.workspace.Resize(std::max(a.workspace.size(), static_cast<int64_t>(bytes)));
  }
  if (tokens <= a.tokens) return;
  // Later steps of fewer rows may take a wider type.
  const int64_t row_bytes = products_.BytesOfRows(tokens);
  int64_t qkv = 0;
  for (const DeviceLayer& layer : weights_.layers) qkv = std::max(qkv, layer.qkv.Matrix().rows);
  a.residual.Resize(tokens * config.hidden_size);
  a.qkv.Resize(tokens * qkv);
  a.attended.Resize(row_bytes * config.q_size());
  a.gated.Resize(row_bytes * config.intermediate_size);
  products_.Reserve(a.products, tokens);
  a.tokens = tokens;
}

void Forward::Run(const Batch& batch) {
  Check(cudaSetDevice(device_.index), "choosing the device");
  last_tokens_ = std::ssize(batch.tokens);
  if (all_decode_ && DecodesOnly(batch)) return RunDecode(batch);
  RunMixed(batch);
}

void Forward::RunMixed(const Batch& batch) {
  const auto tokens = std::ssize(batch.tokens), sequences = std::ssize(batch.chunks);
  const int64_t blocks = MaxBlocks(batch);
  if (!tables_ || !tables_->Fits(tokens, sequences, blocks)) {
    tables_ = std::make_unique<StepTables>(RoundUpToPower(tokens, 64), RoundUpToPower(sequences, 1),
                                           RoundUpToPower(blocks, kMinBlocks), recent_);
  }
  Reserve(activations_, tokens, static_cast<int32_t>(sequences), sequences * tables_->max_blocks());
  tables_->Upload(batch, stream_);
  RunLayers(batch, *tables_, activations_);
  last_ = &activations_;
}

// The first step of a batch size runs as it is, so that plans are chosen and kernels loaded; the
// second is recorded, and later ones replay it.
void Forward::RunDecode(const Batch& batch) {
  const auto sequences = std::ssize(batch.chunks);
  const int64_t blocks = MaxBlocks(batch);
  DecodeStep& step = decode_steps_[sequences];
  if (!step.tables || !step.tables->Fits(sequences, sequences, blocks)) {
    stream_.Synchronize();
    step.graph.Reset();
    step.tables = std::make_unique<StepTables>(sequences, sequences,
                                               RoundUpToPower(blocks, kMinBlocks), recent_);
    Reserve(step.activations, sequences, static_cast<int32_t>(sequences),
            sequences * step.tables->max_blocks());
  }
  step.tables->Upload(batch, stream_);
  if (!step.warm) {
    RunLayers(batch, *step.tables, step.activations);
    step.warm = true;
  } else {
    if (!step.graph) {
      step.graph.Capture(stream_, [&] { RunLayers(batch, *step.tables, step.activations); });
    }
    step.graph.Launch(stream_);
  }
  last_ = &step.activations;
}

void Forward::RunLayers(const Batch& batch, const StepTables& tables, Activations& a) {
  GatherRows(weights_.embedding.Matrix(), tables.ids(), Residual(a, std::ssize(batch.tokens)),
             stream_);
  for (int32_t l = 0; l < static_cast<int32_t>(weights_.layers.size()); ++l) {
    RunLayer(l, batch, tables, a);
  }
}

void Forward::RunLayer(int32_t index, const Batch& batch, const StepTables& tables,
                       Activations& a) {
  const ModelConfig& config = model_.config();
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  const AttentionView& view = views_[static_cast<size_t>(index)];
  const auto tokens = std::ssize(batch.tokens);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  const DeviceMatrix residual = Residual(a, tokens);
  const DeviceMatrix qkv = MakeMatrix(a.qkv.data(), DType::kF32, tokens, layer.qkv.Matrix().rows);
  const DeviceMatrix gated = Rows(a.gated, config.intermediate_size, tokens);

  products_.Normed(residual, {layer.input_norm.AsFloat(), eps}, layer.qkv, layer.qkv_bias,
                   a.products, qkv, stream_);
  const RotateView rotate{rope_,          view.head_dim, eps, view.heads, layer.q_norm.AsFloat(),
                          !view.k.latent, view.k.norm};
  const SequencesView all = tables.sequences(0, static_cast<int32_t>(batch.chunks.size()));
  const StoreView keys{view.k, config.q_size(), clip_ratio_};
  const StoreView values{view.v, config.q_size() + layer.k.width, clip_ratio_};
  if (recent_ > 0) GatherWindows(index, batch, tables, keys, values, qkv);
  StoreRows(rotate, keys, view.shared_latents ? StoreView{} : values, all, tables.tokens(), qkv,
            index, head_.fault(), stream_);
  Attend(index, batch, tables, a);
  products_.Add(Rows(a.attended, config.q_size(), tokens), 1, layer.o, layer.o_bias, residual,
                stream_);
  products_.Gated(residual, {layer.post_norm.AsFloat(), eps}, layer, a.products, gated, stream_);
  products_.Add(gated, layer.gated_scale, layer.down, layer.down_bias, residual, stream_);
}

void Forward::GatherWindows(int32_t index, const Batch& batch, const StepTables& tables,
                            const StoreView& keys, const StoreView& values,
                            const DeviceMatrix& qkv) {
  const bool shared = views_[static_cast<size_t>(index)].shared_latents;
  recent_latents_.assign(batch.chunks.size(), {});
  int64_t rows = 0;
  for (size_t s = 0; s < batch.chunks.size(); ++s) {
    const Batch::Chunk& chunk = batch.chunks[s];
    if (Decodes(index, chunk)) continue;
    RecentLatents& recent = recent_latents_[s];
    recent.tokens = recent_;
    recent.begin = chunk.sequence->recent_begin();
    recent.first = recent.begin / kBlockTokens * kBlockTokens;
    rows += chunk.sequence->length() + chunk.count - recent.first;
  }
  if (rows == 0) return;
  const auto gather = [&](const StoreView& store, const DeviceLayer& layer, bool of_keys,
                          DeviceBuffer<char>& buffer) {
    const DeviceProjection& p = of_keys ? layer.k : layer.v;
    if (!p.view.latent) return;
    const int64_t row_bytes = p.width * static_cast<int64_t>(SizeOf(p.view.up_dtype));
    buffer.Resize(std::max(buffer.size(), rows * row_bytes));
    int64_t row = 0, token = 0;
    for (size_t s = 0; s < batch.chunks.size(); token += batch.chunks[s++].count) {
      const Batch::Chunk& chunk = batch.chunks[s];
      RecentLatents& recent = recent_latents_[s];
      if (recent.tokens == 0) continue;
      const int64_t start = chunk.sequence->length();
      const int64_t count = start + chunk.count - recent.first;
      const DeviceMatrix out =
          MakeMatrix(buffer.data() + row * row_bytes, p.view.up_dtype, count, p.width);
      GatherRecent(store, tables.sequences(static_cast<int32_t>(s), 1), recent.first, recent.begin,
                   start, qkv.RowRange(token, chunk.count), out, stream_);
      (of_keys ? recent.k : recent.v) = out;
      if (of_keys && shared) recent.v = out;
      row += count;
    }
  };
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  gather(keys, layer, true, recent_keys_);
  if (!shared) gather(values, layer, false, recent_values_);
}

// Sequences that take one token go through the decode kernel together where they are neighbours.
void Forward::Attend(int32_t index, const Batch& batch, const StepTables& tables, Activations& a) {
  const AttentionView& view = views_[static_cast<size_t>(index)];
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  const int64_t width = model_.config().q_size();
  const auto tokens = std::ssize(batch.tokens);
  const DeviceMatrix q{a.qkv.data(), DType::kF32, tokens, width, layer.qkv.Matrix().rows};
  const DeviceMatrix out = Rows(a.attended, width, tokens);
  int64_t row = 0;
  for (size_t s = 0; s < batch.chunks.size();) {
    size_t end = s;
    while (end < batch.chunks.size() && Decodes(index, batch.chunks[end])) ++end;
    if (end > s) {
      const auto count = static_cast<int32_t>(end - s);
      const DeviceMatrix rows = q.RowRange(row, count);
      DecodeAttention(view, tables.sequences(static_cast<int32_t>(s), count),
                      static_cast<const float*>(rows.data), rows.stride, a.workspace.data(),
                      out.dtype, out.Row(row), stream_);
      row += count;
      s = end;
      continue;
    }
    const Batch::Chunk& chunk = batch.chunks[s];
    rebuilt_.Run(view, layer, tables.sequences(static_cast<int32_t>(s), 1),
                 chunk.sequence->first_position(), {chunk.sequence->length(), chunk.count},
                 recent_ > 0 ? recent_latents_[s] : RecentLatents{}, q.RowRange(row, chunk.count),
                 products_.linear(), out.RowRange(row, chunk.count), stream_);
    row += chunk.count;
    ++s;
  }
}

void Forward::Logits(std::span<const int64_t> rows, MatrixView<float> logits) {
  Check(cudaSetDevice(device_.index), "choosing the device");
  head_.Logits(Residual(*last_, last_tokens_), rows, logits);
}

void Forward::LogProbs(std::span<const int64_t> rows, std::span<const TokenId> targets,
                       std::span<double> logprobs, std::span<TokenId> argmax) {
  Check(cudaSetDevice(device_.index), "choosing the device");
  head_.LogProbs(Residual(*last_, last_tokens_), rows, targets, logprobs, argmax);
}

void Forward::Compare(ForwardPass& other, std::span<const int64_t> rows,
                      std::span<const TokenId> targets, std::span<RowDivergence> results) {
  auto* const second = dynamic_cast<Forward*>(&other);
  Require(second != nullptr && second->device_ == device_,
          "comparing two models: expected both on cuda:{}", device_.index);
  Check(cudaSetDevice(device_.index), "choosing the device");
  head_.Compare(Residual(*last_, last_tokens_), second->head_,
                second->Residual(*second->last_, second->last_tokens_), rows, targets, results);
}

void Forward::Sample(std::span<const int64_t> rows, std::span<const Draw> draws,
                     std::span<TokenId> tokens) {
  Check(cudaSetDevice(device_.index), "choosing the device");
  head_.Sample(Residual(*last_, last_tokens_), rows, draws, tokens);
}

std::unique_ptr<ForwardPass> MakeForward(const Model& model, const CacheLayout& layout,
                                         const Exec& exec, const TransformerOptions& options) {
  const std::vector<CudaDeviceInfo> devices = CudaDevices();
  Require(!devices.empty(), "device: this machine shows no CUDA device");
  Require(exec.device.index >= 0 && exec.device.index < std::ssize(devices),
          "device: expected cuda:0 to cuda:{}, found cuda:{}", std::ssize(devices) - 1,
          exec.device.index);
  Check(cudaSetDevice(exec.device.index), "choosing the device");
  return std::make_unique<Forward>(model, layout, exec, options);
}

}  // namespace palu::cuda
