#include "compress/stats.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "io/safetensors.h"

namespace palu {
namespace {

// FNV-1a over 64 bits: a fingerprint against mistakes, not against forgery.
class Hash {
 public:
  void Add(const void* data, size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < bytes; ++i) state_ = (state_ ^ p[i]) * 0x100000001B3ull;
  }
  template <class T>
  void Add(const T& value) {
    Add(&value, sizeof(value));
  }
  std::string Hex() const { return fmt::format("{:016x}", state_); }

 private:
  uint64_t state_ = 0xCBF29CE484222325ull;
};

constexpr std::string_view kFormat = "palu-stats";
constexpr std::string_view kVersion = "1";
constexpr int64_t kSampleBytes = 4096;  // at the start, middle and end of every tensor

std::string GramName(size_t layer) { return fmt::format("layers.{}.gram", layer); }
std::string FisherName(size_t layer, char projection) {
  return fmt::format("layers.{}.fisher.{}", layer, projection);
}

std::string MeanName(size_t layer) { return fmt::format("layers.{}.mean", layer); }
std::string OutputGradName(size_t layer) { return fmt::format("layers.{}.output_grad", layer); }

std::string FarName(size_t layer) { return fmt::format("layers.{}.far_squares", layer); }

int64_t PackedSize(int64_t n) { return n * (n + 1) / 2; }

OwnedTensor PackLower(const Matrix<double>& gram) {
  const int64_t n = gram.rows();
  OwnedTensor packed(DType::kF64, {PackedSize(n)});
  auto* out = reinterpret_cast<double*>(packed.data());
  for (int64_t r = 0; r < n; ++r) out = std::copy_n(gram.Row(r), r + 1, out);
  return packed;
}

Matrix<double> UnpackLower(const double* in, int64_t n) {
  Matrix<double> gram(n, n);
  gram.Fill(0);
  for (int64_t r = 0; r < n; in += ++r) std::copy_n(in, r + 1, gram.Row(r));
  return gram;
}

OwnedTensor AsTensor(const std::vector<double>& values) {
  OwnedTensor tensor(DType::kF64, {static_cast<int64_t>(values.size())});
  std::memcpy(tensor.data(), values.data(), values.size() * sizeof(double));
  return tensor;
}

std::vector<double> AsVector(const TensorView& view) {
  return {view.As<double>(), view.As<double>() + view.size()};
}

// Tensors of a stats file are always F64.
const TensorView& GetDouble(const TensorStore& store, const std::string& name, const Shape& shape) {
  const TensorView& view = store.Get(name, shape);
  Require(view.dtype == DType::kF64, "{}: tensor {}: expected F64, found {}", store.path().string(),
          name, Name(view.dtype));
  return view;
}

}  // namespace

std::string Fingerprint(const Model& model) {
  Hash hash;
  const ModelConfig& c = model.config();
  for (const int64_t size : {c.hidden_size, c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim,
                             c.vocab_size, c.intermediate_size}) {
    hash.Add(size);
  }
  hash.Add(c.rope.theta);
  hash.Add(c.rope.factor);
  hash.Add(c.rms_norm_eps);
  for (const auto& [weight_class, view] : model.views()) {
    hash.Add(weight_class);
    const int64_t bytes = view.bytes(), sample = std::min(bytes, kSampleBytes);
    const auto* data = static_cast<const std::byte*>(view.data);
    for (const int64_t at : {int64_t{0}, (bytes - sample) / 2, bytes - sample}) {
      hash.Add(data + at, static_cast<size_t>(sample));
    }
  }
  return hash.Hex();
}

std::string Fingerprint(std::span<const TokenId> ids) {
  Hash hash;
  hash.Add(ids.data(), ids.size_bytes());
  return hash.Hex();
}

void SaveStats(const std::filesystem::path& path, const CalibrationStats& stats) {
  std::vector<OwnedTensor> owned;
  std::vector<NamedTensor> tensors;
  const auto add = [&](std::string name, OwnedTensor tensor) {
    owned.push_back(std::move(tensor));
    tensors.push_back({std::move(name), owned.back().View()});
  };
  for (size_t l = 0; l < stats.grams.size(); ++l) add(GramName(l), PackLower(stats.grams[l]));
  for (size_t l = 0; l < stats.fisher.size(); ++l) {
    add(FisherName(l, 'k'), AsTensor(stats.fisher[l].k));
    add(FisherName(l, 'v'), AsTensor(stats.fisher[l].v));
  }
  for (size_t l = 0; l < stats.means.size(); ++l) {
    add(MeanName(l), AsTensor(stats.means[l]));
    add(OutputGradName(l), PackLower(stats.output_grads[l]));
    add(FarName(l), AsTensor(stats.far_squares[l]));
  }
  const CalibrationSource& s = stats.source;
  const std::filesystem::path temporary = fmt::format("{}.tmp-{}", path.string(), ::getpid());
  WriteSafetensors(temporary, tensors,
                   {{"format", std::string(kFormat)},
                    {"version", std::string(kVersion)},
                    {"model", s.model},
                    {"text", s.text},
                    {"windows", fmt::to_string(s.windows)},
                    {"seqlen", fmt::to_string(s.seqlen)},
                    {"fisher_windows", fmt::to_string(s.fisher_windows)},
                    {"two_sided", s.two_sided ? "1" : "0"},
                    {"recent", fmt::to_string(s.recent)},
                    {"files", stats.files}});
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) {
    std::filesystem::remove(temporary);
    Fail("{}: cannot be written: {}", path.string(), error.message());
  }
}

CalibrationSource ReadStatsSource(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::Open(path);
  const auto text = [&](const std::string& name) {
    const auto found = file.metadata().find(name);
    Require(found != file.metadata().end(),
            "{}: not a statistics file of this program: metadata field {} is missing",
            path.string(), name);
    return found->second;
  };
  const auto number = [&](const std::string& name) {
    const std::string value = text(name);
    int64_t parsed = -1;
    std::from_chars(value.data(), value.data() + value.size(), parsed);
    Require(parsed >= 0, "{}: metadata field {}: expected a number, found '{}'", path.string(),
            name, value);
    return parsed;
  };
  Require(text("format") == kFormat, "{}: metadata field format: expected {}, found '{}'",
          path.string(), kFormat, text("format"));
  Require(text("version") == kVersion, "{}: metadata field version: expected {}, found '{}'",
          path.string(), kVersion, text("version"));
  // Older files lack these fields, and the statistics.
  const auto optional = [&](const std::string& name) {
    return file.metadata().contains(name) ? number(name) : 0;
  };
  return {text("model"),
          text("text"),
          number("windows"),
          number("seqlen"),
          number("fisher_windows"),
          optional("two_sided") == 1,
          optional("recent")};
}

CalibrationStats LoadStats(const std::filesystem::path& path, const CalibrationSource& expected,
                           const ModelConfig& config) {
  const CalibrationSource found = ReadStatsSource(path);
  const auto check = [&](std::string_view name, const auto& wanted, const auto& have) {
    Require(wanted == have,
            "{}: statistics of another {}: expected {}, found {}; name another file or delete this "
            "one",
            path.string(), name, wanted, have);
  };
  check("model", expected.model, found.model);
  check("window length", expected.seqlen, found.seqlen);
  check("number of windows", expected.windows, found.windows);
  check("text", expected.text, found.text);
  if (expected.fisher_windows > 0) {
    check("number of Fisher windows", expected.fisher_windows, found.fisher_windows);
  }
  Require(found.two_sided || !expected.two_sided,
          "{}: the statistics lack the outputs' gradients, which --budget needs; name another file "
          "or delete this one",
          path.string());
  if (expected.two_sided) check("window of recent tokens", expected.recent, found.recent);
  CalibrationStats stats;
  stats.source = expected;
  const TensorStore store = TensorStore::OpenFile(path);
  const auto files = store.metadata().find("files");
  if (files != store.metadata().end()) stats.files = files->second;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const auto i = static_cast<size_t>(l);
    const int64_t n = config.hidden_size;
    stats.grams.push_back(
        UnpackLower(GetDouble(store, GramName(i), {PackedSize(n)}).As<double>(), n));
    if (expected.two_sided) {
      const int64_t rows = 2 * config.kv_size();
      stats.means.push_back(AsVector(GetDouble(store, MeanName(i), {n})));
      stats.output_grads.push_back(
          UnpackLower(GetDouble(store, OutputGradName(i), {PackedSize(rows)}).As<double>(), rows));
      stats.far_squares.push_back(AsVector(GetDouble(store, FarName(i), {rows})));
    }
    if (expected.fisher_windows == 0) continue;
    const Shape heads{config.num_kv_heads};
    stats.fisher.push_back({AsVector(GetDouble(store, FisherName(i, 'k'), heads)),
                            AsVector(GetDouble(store, FisherName(i, 'v'), heads))});
  }
  return stats;
}

}  // namespace palu
