#include "runtime/cpu_forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "ops/convert.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/log_softmax.h"
#include "ops/parallel.h"
#include "ops/rms_norm.h"
#include "ops/swiglu.h"

namespace palu {
namespace {

constexpr int64_t kLogitBytes = int64_t{64} << 20;  // of one slab of logits

// Keys and values come from one latent, stored with the keys.
bool SharesLatents(const LayerWeights& weights) { return weights.v.factored() && !weights.v.down; }

LinearOptions WithBias(const TensorView& bias) { return {.bias = bias ? &bias : nullptr}; }

AttentionProjection MakeProjection(const CachedPages& pages, const ProjectionWeights& weights) {
  AttentionProjection projection;
  projection.pages = pages;
  projection.up = weights.up;
  projection.bias = weights.bias;
  return projection;
}

// U_k per KV head in int8; empty unless keys are rebuilt from codes that it suits.
std::vector<Int8Up> MakeInt8Up(const ModelConfig& config, const AttentionProjection& keys) {
  std::vector<Int8Up> heads;
  const CachedPages& pages = keys.pages;
  if (pages.tiered || !pages.quantized() || !Int8Up::Supports(pages.quantization)) return heads;
  for (int64_t h = 0; h < config.num_kv_heads; ++h) {
    const TensorView& up = keys.up[static_cast<size_t>(h / pages.heads_per_page)];
    heads.emplace_back(up.Rows(h % pages.heads_per_page * config.head_dim, config.head_dim),
                       pages.quantization.run(pages.OfHead(h).width));
  }
  return heads;
}

// The split of slow rotary pairs that decoding from latents gains by; null where there is none, and
// for an f32 cache, whose precision it would waste.
std::unique_ptr<LaneSplit> MakeSplit(const ModelConfig& config, const CacheLayout& layout) {
  const bool codes = layout.tiered() || layout.quantization().enabled();
  if (codes ? !LaneKeys::Available() : layout.dtype() == DType::kF32) return nullptr;
  const std::vector<double> frequencies = InverseFrequencies(config.rope, config.head_dim);
  const int64_t queries = config.num_heads / config.num_kv_heads;
  const SplitCost cost = layout.tiered() ? TierSplitCost(queries)
                         : codes         ? LaneSplitCost(queries)
                                         : WaveSplitCost(queries);
  std::optional<FrequencySplit> split =
      ChooseFrequencySplit(frequencies, config.split_tolerance(), cost);
  if (!split) return nullptr;
  return std::make_unique<LaneSplit>(*std::move(split), frequencies);
}

// U_k per KV head for decoding in lanes; empty where keys have a norm of their own, which comes
// between reconstruction and RoPE, or several scales per token. Without a split tiers are read in
// float32, which rounds nothing.
std::vector<LaneKeys> MakeLaneKeys(const ModelConfig& config, const AttentionProjection& keys,
                                   const LaneSplit* split) {
  std::vector<LaneKeys> heads;
  const CachedPages& pages = keys.pages;
  const int64_t d = config.head_dim;
  if (!LaneKeys::Available() || keys.norm || d % 4 != 0) return heads;
  if (pages.tiered ? split == nullptr : keys.int8_up.empty()) return heads;
  std::vector<float> bias(static_cast<size_t>(keys.bias ? d : 0));
  for (int64_t h = 0; h < config.num_kv_heads; ++h) {
    const auto i = static_cast<size_t>(h);
    if (keys.bias) ToFloat(keys.bias.Rows(h * d, d), bias.data());
    if (pages.tiered) {
      const TensorView& up = keys.up[static_cast<size_t>(h / pages.heads_per_page)];
      heads.emplace_back(up.Rows(h % pages.heads_per_page * d, d), pages.OfHead(h).tiers, bias,
                         split);
      continue;
    }
    if (keys.int8_up[i].run() < keys.int8_up[i].width()) return {};
    heads.emplace_back(keys.int8_up[i], bias, split);
  }
  return heads;
}

}  // namespace

CpuForward::CpuForward(const Model& model, const CacheLayout& layout, const Exec& exec,
                       const TransformerOptions& options)
    : model_(model),
      exec_(exec),
      kernel_(layout.kernel()),
      attend_stored_(options.attend_stored || exec.deterministic),
      recent_(layout.recent()),
      table_(InverseFrequencies(model.config().rope, model.config().head_dim), options.rope_angles,
             LaneKeys::Available() && (layout.tiered() || layout.quantization().enabled())) {
  if (options.frequency_split) split_ = MakeSplit(model.config(), layout);
  Prepare(layout, options.fusion);
  const auto splits = [](const Prepared& p) {
    return p.attention.k.split != nullptr ||
           (!p.lane_keys.empty() && p.lane_keys.front().split() != nullptr);
  };
  const auto in_lanes = [](const Prepared& p) { return !p.lane_keys.empty(); };
  if (layout.tiered() && std::any_of(prepared_.begin(), prepared_.end(), in_lanes)) {
    kernel_ += fmt::format(", when decoding int8 products ({})", Int8Up::KernelName());
  }
  if (std::any_of(prepared_.begin(), prepared_.end(), splits)) {
    const FrequencySplit& split = split_->split;
    kernel_ += fmt::format(", {} of {} rotary pairs rebuilt, the others as {} waves over {} tokens",
                           split.exact_pairs, split.exact_pairs + split.slow_pairs(), split.terms,
                           split.block_tokens);
  }
}

void CpuForward::Prepare(const CacheLayout& layout, ValueFusion fusion) {
  const ModelConfig& config = model_.config();
  prepared_.resize(static_cast<size_t>(config.num_layers));
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerWeights& weights = model_.weights().layers[static_cast<size_t>(l)];
    Prepared& prepared = prepared_[static_cast<size_t>(l)];
    AttentionLayer& attention = prepared.attention;
    attention.heads = config.num_heads;
    attention.kv_heads = config.num_kv_heads;
    attention.head_dim = config.head_dim;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
    attention.positions = &table_;
    attention.k = MakeProjection(layout.layer(l).k, weights.k);
    attention.k.norm = weights.k_norm;
    attention.k.norm_eps = static_cast<float>(config.rms_norm_eps);
    attention.v = MakeProjection(layout.layer(l).v, weights.v);
    prepared.int8_up = MakeInt8Up(config, attention.k);
    attention.k.int8_up = prepared.int8_up;
    prepared.lane_keys = MakeLaneKeys(config, attention.k, split_.get());
    attention.k.lane_keys = prepared.lane_keys;
    if (attention.k.pages.latent && !attention.k.pages.quantized() && !attention.k.bias &&
        !attention.k.norm) {
      attention.k.split = split_.get();
    }
    prepared.shared = SharesLatents(weights);
    attention.fused_values = ShouldFuse(config, weights, fusion);
    prepared.output = weights.o;
    prepared.output_bias = weights.o_bias;
    if (attention.fused_values) {
      prepared.fused = FuseOutput(config, weights);
      prepared.output = prepared.fused.weight.View();
      prepared.output_bias = prepared.fused.has_bias ? prepared.fused.bias.View() : TensorView{};
    }
  }
}

void CpuForward::Run(const Batch& batch) {
  const ModelConfig& config = model_.config();
  PlaceTokens(batch);
  residual_.Resize(static_cast<int64_t>(batch.tokens.size()), config.hidden_size);
  GatherRows(model_.weights().embedding, batch.tokens, residual_);
  for (int64_t l = 0; l < config.num_layers; ++l) RunLayer(batch, l);
  RmsNorm(exec_, residual_, model_.weights().final_norm, config.rms_norm_eps, normed_);
}

void CpuForward::Logits(std::span<const int64_t> rows, MatrixView<float> logits) {
  MatrixView<const float> hidden;
  const auto count = std::ssize(rows);
  if (count > 0 && rows.back() - rows.front() + 1 == count &&
      std::is_sorted(rows.begin(), rows.end())) {
    hidden = MatrixView<const float>(normed_).RowRange(rows.front(), count);
  } else {
    selected_.Resize(count, normed_.cols());
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(normed_.Row(rows[static_cast<size_t>(i)]), normed_.cols(), selected_.Row(i));
    }
    hidden = selected_;
  }
  Linear(exec_, hidden, model_.weights().lm_head, logits);
}

int64_t CpuForward::SlabRows() const {
  return std::max<int64_t>(1, kLogitBytes / (model_.config().vocab_size * 4));
}

void CpuForward::ForEachLogits(std::span<const int64_t> rows, const OnRow& body) {
  const int64_t vocab = model_.config().vocab_size;
  const auto slab = static_cast<size_t>(SlabRows());
  for (size_t begin = 0; begin < rows.size(); begin += slab) {
    const auto count = static_cast<int64_t>(std::min(slab, rows.size() - begin));
    logits_.Resize(count, vocab);
    Logits(rows.subspan(begin, static_cast<size_t>(count)), logits_);
    exec_.pool.ParallelFor(count, [&](int64_t i, int) {
      body(begin + static_cast<size_t>(i), logits_.View().RowSpan(i));
    });
  }
}

void CpuForward::LogProbs(std::span<const int64_t> rows, std::span<const TokenId> targets,
                          std::span<double> logprobs, std::span<TokenId> argmax) {
  ForEachLogits(rows, [&](size_t i, std::span<const float> logits) {
    argmax[i] = static_cast<TokenId>(ArgMax(logits));
    logprobs[i] = targets[i] < 0 ? 0 : LogProb(logits, targets[i]);
  });
}

void CpuForward::Compare(ForwardPass& other, std::span<const int64_t> rows,
                         std::span<const TokenId> targets, std::span<RowDivergence> results) {
  auto* const second = dynamic_cast<CpuForward*>(&other);
  Require(second != nullptr, "comparing two models: expected both on the CPU");
  const int64_t vocab = model_.config().vocab_size;
  for (size_t begin = 0; begin < rows.size();) {
    const size_t count = std::min(static_cast<size_t>(SlabRows()), rows.size() - begin);
    for (CpuForward* const pass : {this, second}) {
      pass->logits_.Resize(static_cast<int64_t>(count), vocab);
      pass->Logits(rows.subspan(begin, count), pass->logits_);
    }
    exec_.pool.ParallelFor(static_cast<int64_t>(count), [&](int64_t i, int) {
      const size_t at = begin + static_cast<size_t>(i);
      results[at] =
          CompareRows(logits_.View().RowSpan(i), second->logits_.View().RowSpan(i), targets[at]);
    });
    begin += count;
  }
}

void CpuForward::Sample(std::span<const int64_t> rows, std::span<const Draw> draws,
                        std::span<TokenId> tokens) {
  ForEachLogits(rows, [&](size_t i, std::span<const float> logits) {
    tokens[i] = Sampler::Sample(logits, draws[i]);
  });
}

void CpuForward::PlaceTokens(const Batch& batch) {
  chunks_.clear();
  positions_.clear();
  recent_rows_ = 0;
  for (const Batch::Chunk& chunk : batch.chunks) {
    const CachedSequence& sequence = *chunk.sequence;
    chunks_.push_back({sequence.table(), sequence.length(), chunk.count,
                       static_cast<int64_t>(positions_.size()), sequence.first_position(),
                       sequence.recent_begin(), recent_rows_});
    recent_rows_ += sequence.length() - sequence.recent_begin() + chunk.count;
    const int64_t end = sequence.first_position() + sequence.length() + chunk.count;
    table_.Cover(sequence.first_position(), end);
    for (int64_t p = end - chunk.count; p < end; ++p) positions_.push_back(p);
  }
  assert(positions_.size() == batch.tokens.size());
  cos_.Resize(static_cast<int64_t>(positions_.size()), table_.half());
  sin_.Resize(static_cast<int64_t>(positions_.size()), table_.half());
  for (int64_t row = 0; row < cos_.rows(); ++row) {
    const int64_t position = positions_[static_cast<size_t>(row)];
    std::copy_n(table_.Cos(position), table_.half(), cos_.Row(row));
    std::copy_n(table_.Sin(position), table_.half(), sin_.Row(row));
  }
}

void CpuForward::RunLayer(const Batch& batch, int64_t layer) {
  const LayerWeights& weights = model_.weights().layers[static_cast<size_t>(layer)];
  const Prepared& prepared = prepared_[static_cast<size_t>(layer)];
  normed_.Resize(residual_.rows(), residual_.cols());
  RmsNorm(exec_, residual_, weights.input_norm, model_.config().rms_norm_eps, normed_);
  ProjectQueries(weights);
  ProjectKeys(weights);
  ProjectValues(weights);
  Store(layer, prepared.attention.k.pages, keys_);
  if (!prepared.shared) Store(layer, prepared.attention.v.pages, values_);
  if (recent_ > 0) {
    KeepRecent(batch, prepared.attention.k.pages, keys_, recent_keys_);
    if (!prepared.shared) KeepRecent(batch, prepared.attention.v.pages, values_, recent_values_);
  }
  Attend(prepared);
  FeedForward(weights);
}

void CpuForward::ProjectQueries(const LayerWeights& weights) {
  const ModelConfig& config = model_.config();
  queries_.Resize(normed_.rows(), config.q_size());
  Linear(exec_, normed_, weights.q, queries_, WithBias(weights.q_bias));
  if (weights.q_norm) RmsNormHeads(exec_, weights.q_norm, config.rms_norm_eps, queries_);
  ApplyRopeRows(exec_, config.num_heads, cos_, sin_, queries_);
}

// Latents as they are, before bias, norm and RoPE; plain keys with all three applied.
void CpuForward::ProjectKeys(const LayerWeights& weights) {
  const ModelConfig& config = model_.config();
  if (weights.k.factored()) {
    keys_.Resize(normed_.rows(), weights.k.down.rows());
    Linear(exec_, normed_, weights.k.down, keys_, WithBias(weights.k.down_bias));
    return;
  }
  keys_.Resize(normed_.rows(), config.kv_size());
  Linear(exec_, normed_, weights.k.dense, keys_, WithBias(weights.k.bias));
  if (weights.k_norm) RmsNormHeads(exec_, weights.k_norm, config.rms_norm_eps, keys_);
  ApplyRopeRows(exec_, config.num_kv_heads, cos_, sin_, keys_);
}

void CpuForward::ProjectValues(const LayerWeights& weights) {
  if (SharesLatents(weights)) return;
  const TensorView& projection = weights.v.factored() ? weights.v.down : weights.v.dense;
  values_.Resize(normed_.rows(), projection.rows());
  Linear(exec_, normed_, projection, values_,
         WithBias(weights.v.factored() ? weights.v.down_bias : weights.v.bias));
}

// Rounds or quantises each token's row into its pages.
void CpuForward::Store(int64_t layer, const CachedPages& pages, MatrixView<const float> rows) {
  for (const QueryChunk& chunk : chunks_) {
    ForRanges(exec_, chunk.count, rows.cols, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const float* row = rows.Row(chunk.row + t);
        const int64_t token = chunk.start + t;
        for (const CachedPages::Page& page : pages.pages) {
          if (!pages.quantized()) {
            FromFloat(row, page.width, pages.dtype, chunk.table.Row(pages, page, token));
          } else {
            pages.ForTiers(page, [&](const PageTier& tier) {
              Require(
                  QuantizeRow(tier.quantization, row + tier.column,
                              chunk.table.Packed(tier, token)),
                  "layer {}: a latent of token {} is not finite; the model's activations overflow",
                  layer, token);
            });
          }
          row += page.width;
        }
      }
    });
  }
}

void CpuForward::KeepRecent(const Batch& batch, const CachedPages& pages,
                            MatrixView<const float> rows, Matrix<float>& recent) {
  recent.Resize(recent_rows_, rows.cols);
  for (size_t c = 0; c < chunks_.size(); ++c) {
    const QueryChunk& chunk = chunks_[c];
    const CachedSequence& sequence = *batch.chunks[c].sequence;
    const int64_t past = chunk.start - chunk.recent_begin;
    ForRanges(exec_, past + chunk.count, rows.cols, [&](int64_t begin, int64_t end) {
      std::vector<Half> rounded(static_cast<size_t>(rows.cols));
      for (int64_t t = begin; t < end; ++t) {
        float* row = recent.Row(chunk.recent_row + t);
        if (t < past) {
          for (const CachedPages::Page& page : pages.pages) {
            ToFloat(sequence.RecentRow(page, chunk.recent_begin + t), DType::kF16, page.width, row);
            row += page.width;
          }
        } else {  // rounded as a later step will see it
          FromFloat(rows.Row(chunk.row + t - past), rows.cols, DType::kF16, rounded.data());
          ToFloat(rounded.data(), DType::kF16, rows.cols, row);
        }
      }
    });
    const int64_t kept = std::min(chunk.count, recent_);
    for (int64_t t = chunk.start + chunk.count - kept; t < chunk.start + chunk.count; ++t) {
      const float* row = recent.Row(chunk.recent_row + t - chunk.recent_begin);
      for (const CachedPages::Page& page : pages.pages) {
        FromFloat(row, page.width, DType::kF16, sequence.RecentRow(page, t));
        row += page.width;
      }
    }
  }
}

void CpuForward::Attend(const Prepared& prepared) {
  const bool stored = attend_stored_ || prepared.attention.k.pages.quantized() ||
                      prepared.attention.v.pages.quantized();
  const FreshRows fresh = stored ? FreshRows{} : FreshRows{keys_, values_};
  RecentRows recent;
  if (recent_ > 0) {
    recent = {recent_, recent_keys_, prepared.shared ? recent_keys_ : recent_values_};
  }
  attended_.Resize(residual_.rows(), prepared.attention.output_width());
  PagedAttention(exec_, prepared.attention, chunks_, queries_, fresh, recent, workspace_,
                 attended_);
  LinearOptions options = WithBias(prepared.output_bias);
  options.accumulate = true;
  Linear(exec_, attended_, prepared.output, residual_, options);
}

void CpuForward::FeedForward(const LayerWeights& weights) {
  const ModelConfig& config = model_.config();
  RmsNorm(exec_, residual_, weights.post_norm, config.rms_norm_eps, normed_);
  gate_.Resize(normed_.rows(), config.intermediate_size);
  up_.Resize(normed_.rows(), config.intermediate_size);
  Linear(exec_, normed_, weights.gate, gate_, WithBias(weights.gate_bias));
  Linear(exec_, normed_, weights.up, up_, WithBias(weights.up_bias));
  SwiGlu(exec_, up_, gate_);
  LinearOptions options = WithBias(weights.down_bias);
  options.accumulate = true;
  Linear(exec_, gate_, weights.down, residual_, options);
}

std::unique_ptr<ForwardPass> MakeCpuForward(const Model& model, const CacheLayout& layout,
                                            const Exec& exec, const TransformerOptions& options) {
  return std::make_unique<CpuForward>(model, layout, exec, options);
}

}  // namespace palu
