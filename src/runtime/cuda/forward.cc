#include "runtime/cuda/forward.h"

#include <algorithm>
#include <cassert>

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
      weights_(UploadWeights(model, layout, options.weight_dtype, stream_)),
      linear_(exec.deterministic),
      rope_tables_(model.config().rope, model.config().head_dim,
                   model.config().num_heads / model.config().num_kv_heads, stream_),
      fault_(1),
      host_fault_(1) {
  Require(options.fusion != ValueFusion::kOn,
          "fuse-values: on a GPU U_v is applied after attention; expected auto or off");
  const ModelConfig& config = model.config();
  // The kernels of 16 bits take exact angles, which are closer to what the model means than the
  // difference that rounding their operands makes.
  const bool float32_angles =
      options.rope_angles == RopeAngles::kFloat32 && layout.dtype() == DType::kF32;
  rope_ = rope_tables_.view(float32_angles);
  Check(cudaMemsetAsync(fault_.data(), 0, sizeof(int32_t), stream_), "clearing the fault");
  stream_.Synchronize();
  for (const DeviceLayer& layer : weights_.layers) {
    views_.push_back(
        MakeAttentionView(config, layer, rope_, rope_tables_.split(), exec.deterministic));
  }
  decodes_ = std::all_of(views_.begin(), views_.end(), SupportsDecode);
}

std::string Forward::kernel() const {
  const bool latent =
      std::any_of(views_.begin(), views_.end(), [](const AttentionView& v) { return v.k.latent; });
  if (!latent) return decodes_ ? "stored keys (CUDA)" : "stored keys, read densely (CUDA)";
  return decodes_ ? "tensor-core products (CUDA)" : "keys rebuilt densely (CUDA)";
}

DeviceMatrix Forward::Typed(const DeviceBuffer<char>& buffer, int64_t cols, int64_t rows) const {
  return MakeMatrix(buffer.data(), weights_.dtype, rows, cols);
}

void Forward::Reserve(Activations& a, int64_t tokens, int32_t decoding, int64_t blocks) const {
  const ModelConfig& config = model_.config();
  if (decodes_ && decoding > 0) {
    size_t bytes = 0;
    for (const AttentionView& view : views_) {
      bytes = std::max(bytes, DecodeWorkspaceBytes(view, decoding, blocks));
    }
    a.workspace.Resize(std::max(a.workspace.size(), static_cast<int64_t>(bytes)));
  }
  if (tokens <= a.tokens) return;
  const auto size = static_cast<int64_t>(SizeOf(weights_.dtype));
  int64_t qkv = 0;
  for (const DeviceLayer& layer : weights_.layers) qkv = std::max(qkv, layer.qkv.Matrix().rows);
  a.residual.Resize(tokens * config.hidden_size);
  a.qkv.Resize(tokens * qkv);
  a.gate_up.Resize(tokens * 2 * config.intermediate_size);
  a.normed.Resize(tokens * config.hidden_size * size);
  a.attended.Resize(tokens * config.q_size() * size);
  a.gated.Resize(tokens * config.intermediate_size * size);
  a.tokens = tokens;
}

void Forward::Run(const Batch& batch) {
  Check(cudaSetDevice(device_.index), "choosing the device");
  last_tokens_ = std::ssize(batch.tokens);
  if (decodes_ && DecodesOnly(batch)) return RunDecode(batch);
  RunMixed(batch);
}

void Forward::RunMixed(const Batch& batch) {
  const auto tokens = std::ssize(batch.tokens), sequences = std::ssize(batch.chunks);
  const int64_t blocks = MaxBlocks(batch);
  if (!tables_ || !tables_->Fits(tokens, sequences, blocks)) {
    tables_ = std::make_unique<StepTables>(RoundUpToPower(tokens, 64), RoundUpToPower(sequences, 1),
                                           RoundUpToPower(blocks, kMinBlocks));
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
    step.tables =
        std::make_unique<StepTables>(sequences, sequences, RoundUpToPower(blocks, kMinBlocks));
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
  const ModelConfig& config = model_.config();
  const auto tokens = std::ssize(batch.tokens);
  const DeviceMatrix residual =
      MakeMatrix(a.residual.data(), DType::kF32, tokens, config.hidden_size);
  GatherRows(weights_.embedding.Matrix(), tables.ids(), residual, stream_);
  for (int32_t l = 0; l < static_cast<int32_t>(weights_.layers.size()); ++l) {
    RunLayer(l, batch, tables, a);
  }
  RmsNorm(residual, weights_.final_norm.AsFloat(), static_cast<float>(config.rms_norm_eps),
          Typed(a.normed, config.hidden_size, tokens), stream_);
}

void Forward::RunLayer(int32_t index, const Batch& batch, const StepTables& tables,
                       Activations& a) {
  const ModelConfig& config = model_.config();
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  const AttentionView& view = views_[static_cast<size_t>(index)];
  const auto tokens = std::ssize(batch.tokens);
  const auto eps = static_cast<float>(config.rms_norm_eps);
  const DeviceMatrix residual =
      MakeMatrix(a.residual.data(), DType::kF32, tokens, config.hidden_size);
  const DeviceMatrix normed = Typed(a.normed, config.hidden_size, tokens);
  const DeviceMatrix qkv = MakeMatrix(a.qkv.data(), DType::kF32, tokens, layer.qkv.Matrix().rows);
  const DeviceMatrix gate_up =
      MakeMatrix(a.gate_up.data(), DType::kF32, tokens, 2 * config.intermediate_size);
  const DeviceMatrix gated = Typed(a.gated, config.intermediate_size, tokens);

  RmsNorm(residual, layer.input_norm.AsFloat(), eps, normed, stream_);
  linear_.Run(normed, layer.qkv.Matrix(), layer.qkv_bias.AsFloat(), qkv, false, stream_);
  const HeadsView queries{0, view.heads, layer.q_norm.AsFloat()};
  const HeadsView plain_keys{config.q_size(), view.k.latent ? 0 : view.kv_heads, view.k.norm};
  RotateHeads(rope_, view.head_dim, eps, tables.tokens(), queries, plain_keys, qkv, stream_);
  const SequencesView all = tables.sequences(0, static_cast<int32_t>(batch.chunks.size()));
  StoreRows({view.k, config.q_size(), clip_ratio_},
            {view.v, config.q_size() + layer.k.width, clip_ratio_}, all.blocks, all.stride,
            tables.tokens(), qkv, index, fault_.data(), stream_);
  Attend(view, layer, batch, tables, a);
  linear_.Run(Typed(a.attended, config.q_size(), tokens), layer.o.Matrix(), layer.o_bias.AsFloat(),
              residual, true, stream_);
  RmsNorm(residual, layer.post_norm.AsFloat(), eps, normed, stream_);
  linear_.Run(normed, layer.gate_up.Matrix(), layer.gate_up_bias.AsFloat(), gate_up, false,
              stream_);
  SwiGlu(gate_up, gated, stream_);
  linear_.Run(gated, layer.down.Matrix(), layer.down_bias.AsFloat(), residual, true, stream_);
}

// Sequences that take one token go through the decode kernel together where they are neighbours.
void Forward::Attend(const AttentionView& view, const DeviceLayer& layer, const Batch& batch,
                     const StepTables& tables, Activations& a) {
  const int64_t width = model_.config().q_size();
  const auto tokens = std::ssize(batch.tokens);
  const DeviceMatrix q{a.qkv.data(), DType::kF32, tokens, width, layer.qkv.Matrix().rows};
  const DeviceMatrix out = Typed(a.attended, width, tokens);
  int64_t row = 0;
  for (size_t s = 0; s < batch.chunks.size();) {
    size_t end = s;
    while (decodes_ && end < batch.chunks.size() && batch.chunks[end].count == 1) ++end;
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
                 q.RowRange(row, chunk.count), linear_, out.RowRange(row, chunk.count), stream_);
    row += chunk.count;
    ++s;
  }
}

void Forward::Logits(std::span<const int64_t> rows, MatrixView<float> logits) {
  assert(last_ != nullptr && logits.rows == std::ssize(rows));
  Check(cudaSetDevice(device_.index), "choosing the device");
  const ModelConfig& config = model_.config();
  const auto count = std::ssize(rows);
  const auto size = static_cast<int64_t>(SizeOf(weights_.dtype));
  const std::vector<int32_t> selected(rows.begin(), rows.end());
  rows_.Resize(std::max(rows_.size(), count));
  selected_.Resize(std::max(selected_.size(), count * config.hidden_size * size));
  logits_.Resize(std::max(logits_.size(), count * config.vocab_size));
  host_logits_.Resize(count * config.vocab_size);
  rows_.Upload(selected.data(), count, stream_);
  const DeviceMatrix hidden = Typed(selected_, config.hidden_size, count);
  SelectRows(Typed(last_->normed, config.hidden_size, last_tokens_), rows_.data(), hidden, stream_);
  const DeviceMatrix out = MakeMatrix(logits_.data(), DType::kF32, count, config.vocab_size);
  linear_.Run(hidden, weights_.head().Matrix(), nullptr, out, false, stream_);
  logits_.Download(host_logits_.data(), count * config.vocab_size, stream_);
  CheckFault();
  for (int64_t r = 0; r < count; ++r) {
    std::copy_n(host_logits_.data() + r * config.vocab_size, config.vocab_size, logits.Row(r));
  }
}

// Waits for the stream; throws Error when a step met a latent that cannot be stored.
void Forward::CheckFault() {
  fault_.Download(host_fault_.data(), 1, stream_);
  stream_.Synchronize();
  const int32_t layer = host_fault_[0] - 1;
  if (layer < 0) return;
  Check(cudaMemsetAsync(fault_.data(), 0, sizeof(int32_t), stream_), "clearing the fault");
  Fail("layer {}: a latent is not finite; the model's activations overflow", layer);
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
