#include "model/weights.h"

#include <map>

#include "base/error.h"
#include "model/hf_config.h"
#include "model/tensor_names.h"
#include "ops/convert.h"

namespace palu {
namespace {

// Walks the model in file order and appends a slot per tensor.
class TableBuilder {
 public:
  TableBuilder(const ModelConfig& config, std::vector<WeightSlot>& table)
      : config_(config), table_(table) {}

  void AddModel(ModelWeights& weights) {
    const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
    Add(std::string(names::kEmbedding), {vocab, hidden}, WeightClass::kEmbedding,
        weights.embedding);
    for (int64_t l = 0; l < config_.num_layers; ++l) {
      AddLayer(l, weights.layers[static_cast<size_t>(l)]);
    }
    Add(std::string(names::kFinalNorm), {hidden}, WeightClass::kNorm, weights.final_norm);
    if (!config_.tied_embeddings) {
      Add(std::string(names::kHead), {vocab, hidden}, WeightClass::kHead, weights.lm_head);
    }
  }

 private:
  void Add(std::string name, Shape shape, WeightClass weight_class, TensorView& view) {
    table_.push_back({std::move(name), std::move(shape), weight_class, &view});
  }

  void AddLinear(const std::string& module, int64_t out, int64_t in, bool has_bias,
                 WeightClass weight_class, TensorView& weight, TensorView& bias) {
    Add(names::Weight(module), {out, in}, weight_class, weight);
    if (has_bias) Add(names::Bias(module), {out}, weight_class, bias);
  }

  void AddProjection(const std::string& module, const ProjectionRanks& ranks, bool own_latents,
                     WeightClass weight_class, ProjectionWeights& weights) {
    if (!ranks.factored()) {
      AddLinear(module, config_.kv_size(), config_.hidden_size, config_.qkv_bias, weight_class,
                weights.dense, weights.bias);
      return;
    }
    const bool centered = config_.compression->centered;
    if (own_latents) {
      Add(names::VT(module), {ranks.total(), config_.hidden_size}, weight_class, weights.down);
      if (centered) {
        Add(names::VTBias(module), {ranks.total()}, weight_class, weights.down_bias);
      }
    }
    const auto groups = static_cast<int64_t>(ranks.ranks.size());
    weights.up.resize(ranks.ranks.size());
    for (int64_t g = 0; g < groups; ++g) {
      const auto i = static_cast<size_t>(g);
      Add(names::U(module, g), {config_.kv_size() / groups, ranks.ranks[i]}, weight_class,
          weights.up[i]);
    }
    if (config_.qkv_bias || centered) {
      Add(names::Bias(module), {config_.kv_size()}, weight_class, weights.bias);
    }
  }

  void AddLayer(int64_t l, LayerWeights& w) {
    const int64_t hidden = config_.hidden_size, inter = config_.intermediate_size;
    const LayerRanks ranks = config_.Ranks(l);
    Add(names::Weight(names::InputNorm(l)), {hidden}, WeightClass::kNorm, w.input_norm);
    AddLinear(names::QProj(l), config_.q_size(), hidden, config_.qkv_bias, WeightClass::kQuery, w.q,
              w.q_bias);
    AddProjection(names::KProj(l), ranks.k, true, WeightClass::kKey, w.k);
    AddProjection(names::VProj(l), ranks.v, !ranks.shared, WeightClass::kValue, w.v);
    if (config_.qk_norm) {
      Add(names::Weight(names::QNorm(l)), {config_.head_dim}, WeightClass::kNorm, w.q_norm);
      Add(names::Weight(names::KNorm(l)), {config_.head_dim}, WeightClass::kNorm, w.k_norm);
    }
    AddLinear(names::OProj(l), hidden, config_.q_size(), config_.o_bias, WeightClass::kOutput, w.o,
              w.o_bias);
    Add(names::Weight(names::PostAttentionNorm(l)), {hidden}, WeightClass::kNorm, w.post_norm);
    AddLinear(names::GateProj(l), inter, hidden, config_.mlp_bias, WeightClass::kMlp, w.gate,
              w.gate_bias);
    AddLinear(names::UpProj(l), inter, hidden, config_.mlp_bias, WeightClass::kMlp, w.up,
              w.up_bias);
    AddLinear(names::DownProj(l), hidden, inter, config_.mlp_bias, WeightClass::kMlp, w.down,
              w.down_bias);
  }

  const ModelConfig& config_;
  std::vector<WeightSlot>& table_;
};

}  // namespace

std::string_view Name(WeightClass weight_class) {
  switch (weight_class) {
    case WeightClass::kEmbedding:
      return "embedding";
    case WeightClass::kHead:
      return "lm_head";
    case WeightClass::kQuery:
      return "q_proj";
    case WeightClass::kKey:
      return "k_proj";
    case WeightClass::kValue:
      return "v_proj";
    case WeightClass::kOutput:
      return "o_proj";
    case WeightClass::kMlp:
      return "mlp";
    case WeightClass::kNorm:
      return "norm";
  }
  return "?";
}

std::vector<WeightSlot> WeightTable(const ModelConfig& config, ModelWeights& weights) {
  weights.layers.assign(static_cast<size_t>(config.num_layers), {});
  std::vector<WeightSlot> table;
  TableBuilder(config, table).AddModel(weights);
  return table;
}

Model Model::Load(const std::filesystem::path& directory) {
  Model model;
  model.path_ = directory;
  model.config_ = LoadConfig(directory);
  model.store_ = TensorStore::OpenDirectory(directory);
  ModelWeights& weights = *model.weights_;
  const std::vector<WeightSlot> table = WeightTable(model.config_, weights);
  for (const WeightSlot& slot : table) {
    const bool kv_bias = slot.name.ends_with("k_proj.bias") || slot.name.ends_with("v_proj.bias");
    const bool in_parts = kv_bias && model.config_.compression &&
                          !model.config_.compression->centered && !model.store_.Find(slot.name);
    if (in_parts) continue;  // below
    *slot.view = model.store_.Get(slot.name, slot.shape);
  }
  if (model.config_.compression && model.config_.qkv_bias) {
    for (int64_t l = 0; l < model.config_.num_layers; ++l) {
      LayerWeights& layer = weights.layers[static_cast<size_t>(l)];
      if (!layer.k.bias) model.BindPublishedBias(names::KProj(l), layer.k);
      if (!layer.v.bias) model.BindPublishedBias(names::VProj(l), layer.v);
    }
  }
  model.RememberViews(table);
  if (model.config_.tied_embeddings) weights.lm_head = weights.embedding;
  return model;
}

void Model::BindCompressed(const Model& dense, const KvCompression& compression,
                           const std::function<void(const WeightSlot&, const TensorView&)>& bind) {
  std::map<std::string, TensorView> shared;
  ModelWeights unbound;
  const std::vector<WeightSlot> dense_table = WeightTable(dense.config(), unbound);
  for (size_t i = 0; i < dense_table.size(); ++i) {
    shared[dense_table[i].name] = dense.views()[i].second;
  }
  path_ = dense.path();
  config_ = dense.config();
  config_.compression = compression;
  const std::vector<WeightSlot> table = WeightTable(config_, *weights_);
  for (const WeightSlot& slot : table) {
    const auto found = shared.find(slot.name);
    const bool same = found != shared.end() && found->second.shape == slot.shape;
    bind(slot, same ? found->second : TensorView());
  }
  RememberViews(table);
  if (config_.tied_embeddings) weights_->lm_head = weights_->embedding;
}

Model Model::Compressed(const Model& dense, const KvCompression& compression,
                        const std::function<TensorView(const std::string&)>& factor) {
  Model model;
  model.BindCompressed(dense, compression, [&](const WeightSlot& slot, const TensorView& same) {
    const TensorView own = factor(slot.name);
    *slot.view = own ? own : same;
    Require(slot.view->shape == slot.shape, "tensor {}: expected {}, found {}", slot.name,
            ToString(slot.shape), ToString(slot.view->shape));
  });
  return model;
}

void Model::RememberViews(const std::vector<WeightSlot>& table) {
  for (const WeightSlot& slot : table) views_.emplace_back(slot.weight_class, *slot.view);
}

void Model::BindPublishedBias(const std::string& projection, ProjectionWeights& weights) {
  const int64_t kv_size = config_.kv_size();
  const auto groups = static_cast<int64_t>(weights.up.size());
  if (groups == 0) {  // a dense projection has no parts: say what is missing
    weights.bias = store_.Get(names::Bias(projection), {kv_size});
    return;
  }
  OwnedTensor joined(DType::kF32, {kv_size});
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t part = kv_size / groups;
    ToFloat(store_.Get(names::UBias(projection, g), {part}),
            reinterpret_cast<float*>(joined.data()) + g * part);
  }
  weights.bias = joined.View();
  owned_.push_back(std::move(joined));
}

std::vector<std::pair<WeightClass, int64_t>> Model::BytesByClass() const {
  std::map<WeightClass, int64_t> bytes;
  for (const auto& [weight_class, view] : views_) bytes[weight_class] += view.bytes();
  return {bytes.begin(), bytes.end()};
}

}  // namespace palu
