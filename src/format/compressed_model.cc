#include "format/compressed_model.h"

#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "format/config_text.h"
#include "format/model_files.h"
#include "model/tensor_names.h"

namespace palu {
namespace {

// Collects the tensors of the new checkpoint.
class TensorList {
 public:
  explicit TensorList(const CompressedModel& model) : model_(model) {}

  // Replaces MODULE.weight by its factors; nothing when the projection stays dense.
  void AddProjection(const std::string& module, const ProjectionRanks& ranks, bool own_latents,
                     const Factors& factors) {
    if (!ranks.factored()) {
      Require(factors.u.empty(), "{}: expected no factors for a dense projection", module);
      return;
    }
    const int64_t hidden = model_.config.hidden_size;
    const int64_t group_rows = model_.compression.group_size * model_.config.head_dim;
    model_.weights.Get(names::Weight(module), {model_.config.kv_size(), hidden});
    Require(factors.u.size() == ranks.ranks.size(), "{}: expected {} up-projections, found {}",
            module, ranks.ranks.size(), factors.u.size());
    const bool centered = model_.compression.centered;
    if (own_latents) Add(names::VT(module), factors.vt, {ranks.total(), hidden});
    if (own_latents && centered) Add(names::VTBias(module), factors.vt_bias, {ranks.total()});
    if (centered) {
      Add(names::Bias(module), factors.bias, {model_.config.kv_size()});
      replaced_.insert(names::Bias(module));
    }
    for (size_t i = 0; i < ranks.ranks.size(); ++i) {
      Add(names::U(module, static_cast<int64_t>(i)), factors.u[i], {group_rows, ranks.ranks[i]});
    }
    replaced_.insert(names::Weight(module));
  }

  void AddTheRest() {
    for (const auto& [name, tensor] : model_.weights.stored()) {
      if (!replaced_.contains(name)) tensors_.push_back(tensor);
    }
  }

  const std::vector<StoredTensor>& tensors() const { return tensors_; }

 private:
  void Add(const std::string& name, const OwnedTensor& tensor, const Shape& expected) {
    const TensorView view = tensor.View();
    Require(view.shape == expected, "tensor {}: expected {}, found {}", name, ToString(expected),
            ToString(view.shape));
    tensors_.push_back(Stored({name, view}));
  }

  const CompressedModel& model_;
  std::vector<StoredTensor> tensors_;
  std::set<std::string> replaced_;
};

}  // namespace

Model InMemory(const Model& dense, const KvCompression& compression,
               const std::vector<LayerFactors>& factors) {
  std::map<std::string, TensorView> views;
  const auto add = [&](const std::string& name, const OwnedTensor& tensor) {
    if (tensor.data()) views[name] = tensor.View();
  };
  for (size_t i = 0; i < factors.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    for (const auto& [module, side] : {std::pair{names::KProj(layer), &factors[i].k},
                                       std::pair{names::VProj(layer), &factors[i].v}}) {
      add(names::VT(module), side->vt);
      add(names::VTBias(module), side->vt_bias);
      add(names::Bias(module), side->bias);
      for (size_t g = 0; g < side->u.size(); ++g) {
        add(names::U(module, static_cast<int64_t>(g)), side->u[g]);
      }
    }
  }
  return Model::Compressed(dense, compression, [&](const std::string& name) {
    const auto found = views.find(name);
    return found == views.end() ? TensorView() : found->second;
  });
}

void WriteCompressedModel(const CompressedModel& model, const std::filesystem::path& directory) {
  const auto layers = static_cast<size_t>(model.config.num_layers);
  Require(!model.config.compression, "{}: expected a dense model, found a compressed one",
          model.source.string());
  Require(model.compression.layers.size() == layers && model.factors.size() == layers,
          "{}: expected ranks and factors of {} layers, found {} and {}", model.source.string(),
          layers, model.compression.layers.size(), model.factors.size());
  TensorList list(model);
  for (size_t i = 0; i < layers; ++i) {
    const auto layer = static_cast<int64_t>(i);
    const LayerRanks& ranks = model.compression.layers[i];
    list.AddProjection(names::KProj(layer), ranks.k, true, model.factors[i].k);
    list.AddProjection(names::VProj(layer), ranks.v, !ranks.shared, model.factors[i].v);
  }
  list.AddTheRest();

  const std::string where = (model.source / "config.json").string();
  const std::string config =
      WithCompression(ReadConfigText(model.source), where, model.compression);
  WriteShardedSafetensors(directory, list.tensors(), {{"format", "pt"}});
  CopyCompanionFiles(model.source, directory);
  WriteFileAtomically(directory / "README.md", model.model_card);
  WriteFileAtomically(directory / "config.json", config);
}

}  // namespace palu
