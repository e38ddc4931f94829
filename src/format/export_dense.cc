#include "format/export_dense.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "format/config_text.h"
#include "format/model_files.h"
#include "format/rounding.h"
#include "io/safetensors.h"
#include "linalg/gemm.h"
#include "model/hf_config.h"
#include "model/tensor_names.h"

namespace palu {
namespace {

constexpr int64_t kRowsPerTask = 64;

class Exporter {
 public:
  Exporter(const TensorStore& store, const ModelConfig& config, std::optional<DType> dtype,
           ThreadPool& pool)
      : store_(store), config_(config), dtype_(dtype), pool_(pool) {}

  // The dense checkpoint; what is computed is computed when it is written.
  std::vector<StoredTensor> Tensors() {
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      const LayerRanks ranks = config_.Ranks(layer);
      const std::string k = names::KProj(layer);
      if (ranks.k.factored()) AddProjection(k, k, ranks.k);
      if (ranks.v.factored()) {
        const std::string down = ranks.shared ? names::KProj(layer) : names::VProj(layer);
        AddProjection(names::VProj(layer), down, ranks.v);
      }
    }
    for (const auto& [name, tensor] : store_.stored()) {
      if (!IsFactor(name)) AddCopy(tensor);
    }
    return std::move(tensors_);
  }

 private:
  int64_t GroupRows(const ProjectionRanks& ranks) const {
    return config_.kv_size() / std::ssize(ranks.ranks);
  }

  // `down`: the module whose down-projection makes its latents.
  void AddProjection(const std::string& module, const std::string& down,
                     const ProjectionRanks& ranks) {
    modules_.push_back(module);
    const TensorView& vt = store_.Get(names::VT(down), {ranks.total(), config_.hidden_size});
    std::vector<TensorView> u;
    for (size_t i = 0; i < ranks.ranks.size(); ++i) {
      const std::string name = names::U(module, static_cast<int64_t>(i));
      u.push_back(store_.Get(name, {GroupRows(ranks), ranks.ranks[i]}));
    }
    const DType dtype = dtype_.value_or(vt.dtype);
    Add(names::Weight(module), dtype, {config_.kv_size(), config_.hidden_size},
        [this, vt, u, dtype] { return Product(vt, u, dtype); });
    if (config_.qkv_bias && !store_.Find(names::Bias(module))) AddJoinedBias(module, ranks);
  }

  void AddJoinedBias(const std::string& module, const ProjectionRanks& ranks) {
    std::vector<TensorView> parts;
    for (size_t i = 0; i < ranks.ranks.size(); ++i) {
      const std::string name = names::UBias(module, static_cast<int64_t>(i));
      parts.push_back(store_.Get(name, {GroupRows(ranks)}));
    }
    const DType dtype = dtype_.value_or(parts.front().dtype);
    const Shape shape{config_.kv_size()};
    Add(names::Bias(module), dtype, shape, [parts, dtype, shape] {
      OwnedTensor joined(dtype, shape);
      std::byte* to = joined.data();
      for (const TensorView& part : parts) {
        const OwnedTensor rounded = Converted(part, dtype);
        to = std::copy_n(rounded.data(), rounded.size_bytes(), to);
      }
      return joined;
    });
  }

  // [kv_size, hidden], from A of all groups stacked and U per group.
  OwnedTensor Product(const TensorView& vt, const std::vector<TensorView>& u, DType dtype) const {
    const Matrix<double> a = ToDouble(vt);
    Matrix<double> w(config_.kv_size(), config_.hidden_size);
    int64_t first_row = 0, first_rank = 0;
    for (const TensorView& view : u) {
      const Matrix<double> u_i = ToDouble(view);
      const auto a_i = a.View().RowRange(first_rank, u_i.cols());
      const int64_t tasks = (u_i.rows() + kRowsPerTask - 1) / kRowsPerTask;
      pool_.ParallelFor(tasks, [&](int64_t task, int) {
        const int64_t begin = task * kRowsPerTask;
        const int64_t count = std::min(kRowsPerTask, u_i.rows() - begin);
        Gemm(Trans::kNo, Trans::kNo, 1.0, u_i.View().RowRange(begin, count), a_i, 0.0,
             w.View().RowRange(first_row + begin, count));
      });
      first_row += u_i.rows();
      first_rank += u_i.cols();
    }
    return Rounded(w, dtype, {w.rows(), w.cols()});
  }

  void AddCopy(const StoredTensor& tensor) {
    const TensorView* view = store_.Find(tensor.name);
    if (!dtype_ || !view || view->dtype == *dtype_) {
      tensors_.push_back(tensor);
      return;
    }
    Add(tensor.name, *dtype_, tensor.shape,
        [view, dtype = *dtype_] { return Converted(*view, dtype); });
  }

  void Add(std::string name, DType dtype, Shape shape, std::function<OwnedTensor()> make) {
    tensors_.push_back(
        {std::move(name), std::string(Name(dtype)), std::move(shape), {}, std::move(make)});
  }

  bool IsFactor(std::string_view name) const {
    return std::any_of(modules_.begin(), modules_.end(), [&](const std::string& module) {
      return name.starts_with(module + ".VT.") || name.starts_with(module + ".U.");
    });
  }

  const TensorStore& store_;
  const ModelConfig& config_;
  const std::optional<DType> dtype_;
  ThreadPool& pool_;
  std::vector<StoredTensor> tensors_;
  std::vector<std::string> modules_;  // those that were factored
};

}  // namespace

void ExportDense(const std::filesystem::path& compressed, const std::filesystem::path& directory,
                 std::optional<DType> dtype, ThreadPool& pool) {
  const ModelConfig config = LoadConfig(compressed);
  Require(config.compression.has_value(), "{}: expected a compressed model, found a dense one",
          compressed.string());
  Require(!config.compression->centered || config.qkv_bias,
          "{}: its latents' mean is kept in biases, for which a dense {} checkpoint has no place",
          compressed.string(), Name(config.family));
  const TensorStore store = TensorStore::OpenDirectory(compressed);
  WriteShardedSafetensors(directory, Exporter(store, config, dtype, pool).Tensors(),
                          {{"format", "pt"}});
  CopyCompanionFiles(compressed, directory);
  const std::string where = (compressed / "config.json").string();
  WriteFileAtomically(directory / "config.json",
                      WithoutCompression(ReadConfigText(compressed), where, config.family, dtype));
}

}  // namespace palu
