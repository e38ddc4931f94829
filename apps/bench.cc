// Speed of prefill and decoding, models side by side, against the machine's limits.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "bench.h"
#include "compress/rank_search.h"
#include "eval/bench/report.h"
#include "model/hf_config.h"
#include "model/presets.h"
#include "ops/frequency_split.h"

namespace palu::cli {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

struct Options {
  CommonOptions common;
  CacheOptions cache;
  std::vector<std::string> models;
  std::string synthetic, ranks, dtype = "bf16", basis = "svd";
  std::string prompts = "512", depths = "0,4096", batches = "1";
  double ratio = 0.5;
  int64_t group_size = 4;
  SuiteOptions suite;
  std::string format = "md", out;
};

// The models of a run, and what keeps them alive.
struct Loaded {
  std::string title;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<Model>> models;
};

// Of --ranks K,V (per group), or uniform for --ratio as `palu compress` rounds it.
KvCompression SyntheticRanks(const Options& options, const ModelConfig& config) {
  const int64_t width = options.group_size * config.head_dim;
  KvCompression compression;
  compression.group_size = options.group_size;
  compression.ratio = options.ratio;
  compression.rank_multiple = DefaultRankMultiple(width);
  compression.layers = SearchRanks(
      config, {RankSearch::kUniform, options.ratio, options.group_size, compression.rank_multiple},
      {});
  if (!options.ranks.empty()) {
    const auto ranks = ParseIntList(options.ranks, "--ranks", 1, width);
    Require(ranks.size() == 2, "--ranks: expected two ranks, keys and values, found '{}'",
            options.ranks);
    for (LayerRanks& layer : compression.layers) {
      std::fill(layer.k.ranks.begin(), layer.k.ranks.end(), ranks[0]);
      std::fill(layer.v.ranks.begin(), layer.v.ranks.end(), ranks[1]);
    }
  }
  MakeFullWidthDense(config, options.group_size, compression.layers);
  if (options.cache.latent_bits) compression.quantization.bits = *options.cache.latent_bits;
  if (options.basis == "rotary") {
    compression.rotary_pairs = FastPairs(config.heads_per_kv(), config.head_dim);
  }
  return compression;
}

DType WeightDType(const std::string& name) {
  if (name == "f32") return DType::kF32;
  return name == "f16" ? DType::kF16 : DType::kBF16;
}

void RequireMemory(const ModelConfig& config, DType dtype) {
  ModelWeights weights;
  int64_t bytes = 0;
  for (const WeightSlot& slot : WeightTable(config, weights)) {
    bytes += NumElements(slot.shape) * static_cast<int64_t>(SizeOf(dtype));
  }
  Require(bytes < AvailableMemory(), "the weights need {} MiB, and {} MiB are free", bytes >> 20,
          AvailableMemory() >> 20);
}

Loaded MakeSynthetic(const Options& options, ThreadPool& pool) {
  ModelConfig config = SyntheticConfig(options.synthetic);
  // A compressed config.json brings its own ranks.
  const KvCompression compression =
      config.compression ? *config.compression : SyntheticRanks(options, config);
  config.compression.reset();
  const DType dtype = WeightDType(options.dtype);
  RequireMemory(config, dtype);
  Info("bench: making random weights");
  Loaded loaded;
  loaded.title = options.synthetic + ", random weights";
  loaded.names = {"dense", "palu"};
  loaded.models.push_back(std::make_unique<Model>(Model::Random(config, dtype, 1, &pool)));
  loaded.models.push_back(
      std::make_unique<Model>(Model::RandomCompressed(*loaded.models[0], compression, 2, &pool)));
  return loaded;
}

Loaded LoadModels(const Options& options) {
  Loaded loaded;
  for (const std::string& path : options.models) {
    loaded.models.push_back(std::make_unique<Model>(Model::Load(path)));
    std::string name = std::filesystem::path(path).lexically_normal().filename().string();
    if (name.empty() || std::count(loaded.names.begin(), loaded.names.end(), name)) name = path;
    loaded.names.push_back(name);
  }
  loaded.title = fmt::format("{}", fmt::join(loaded.names, ", "));
  return loaded;
}

std::string Describe(const Model& model) {
  const ModelConfig& config = model.config();
  std::string text =
      fmt::format("{} layers, hidden {}, {} heads, {} KV heads of {}", config.num_layers,
                  config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim);
  if (!config.compression) return text;
  int64_t k = 0, v = 0;
  for (const LayerRanks& layer : config.compression->layers) {
    k += layer.k.factored() ? layer.k.total() : config.kv_size();
    v += layer.v.factored() ? layer.v.total() : config.kv_size();
  }
  const int64_t full = config.num_layers * config.kv_size();
  return text + fmt::format(", ranks {:.0f} % of keys and {:.0f} % of values in groups of {}",
                            100.0 * static_cast<double>(k) / static_cast<double>(full),
                            100.0 * static_cast<double>(v) / static_cast<double>(full),
                            config.compression->group_size);
}

SuiteOptions ParseSuite(const Options& options) {
  SuiteOptions suite = options.suite;
  suite.prompts = ParseIntList(options.prompts, "--prompt", 1, kMaxTokens);
  suite.depths = ParseIntList(options.depths, "--depth", 0, kMaxTokens);
  suite.batches = ParseIntList(options.batches, "--batch", 1, 4096);
  Require(!Workloads(suite).empty(), "nothing to measure: give --prompt, or --depth and --batch");
  return suite;
}

void Run(const Options& options) {
  Require(options.models.empty() != options.synthetic.empty(),
          "give one or more model directories, or --synthetic NAME");
  const SuiteOptions suite = ParseSuite(options);
  CheckOutputFile("--out", options.out);
  Session session(options.common);
  const Exec exec = session.exec();
  const Loaded loaded =
      options.synthetic.empty() ? LoadModels(options) : MakeSynthetic(options, exec.pool);

  BenchReport report;
  report.title = loaded.title;
  report.cache_dtype = MakeCacheFormat(options.cache).dtype;
  report.generate = suite.generate;
  report.repetitions = suite.repetitions;
  std::vector<std::unique_ptr<BenchModel>> models;
  for (size_t i = 0; i < loaded.models.size(); ++i) {
    const Model& model = *loaded.models[i];
    models.push_back(std::make_unique<BenchModel>(loaded.names[i], model, exec,
                                                  MakeCacheFormat(options.cache, model),
                                                  MakeTransformerOptions(options.cache)));
    int64_t bytes = 0;
    for (const auto& [weight_class, part] : model.BytesByClass()) bytes += part;
    report.models.push_back(
        {loaded.names[i], fmt::format("{}, keys from {}", Describe(model), models.back()->kernel()),
         model.weights().embedding.dtype, bytes, models.back()->layout().bytes_per_token()});
  }
  Info("bench: measuring the machine");
  report.machine = MeasureMachine(exec);
  {
    const auto runs = static_cast<int64_t>(Workloads(suite).size() * models.size());
    Progress progress("bench", runs * suite.repetitions, "runs");
    // A tenth is left for activations and the rest of the system.
    const int64_t memory = AvailableMemory(exec.device) / 10 * 9;
    report.rows = RunSuite(suite, models, memory, [&] { progress.Tick(); });
  }
  const std::string text = Format(report, ParseReportFormat(options.format));
  if (options.out.empty()) {
    fmt::print("{}", text);
  } else {
    WriteFileAtomically(options.out, text);
  }
}

}  // namespace

ModelConfig SyntheticConfig(const std::string& name) {
  if (const auto preset = Preset(name)) return *preset;
  std::filesystem::path path = name;
  if (std::filesystem::is_directory(path)) path /= "config.json";
  Require(std::filesystem::exists(path),
          "--synthetic: expected {} or the path of a config.json, found '{}'",
          fmt::join(PresetNames(), ", "), name);
  return ParseConfig(ReadTextFile(path, kMaxConfigBytes), path.string());
}

void AddBench(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Speed of prefill and decoding");
  AddBenchAttention(*command);
  command->add_option("MODEL", options->models, "model directories, compared to the first");
  CLI::Option* synthetic = command->add_option(
      "--synthetic", options->synthetic,
      fmt::format("random weights instead, dense and compressed: {} or the path of a config.json",
                  fmt::join(PresetNames(), ", ")));
  command->add_option("--ratio", options->ratio, "kept rank of --synthetic's compressed form")
      ->needs(synthetic)
      ->capture_default_str();
  command->add_option("--ranks", options->ranks, "K,V: ranks of every group instead of --ratio")
      ->needs(synthetic);
  command->add_option("--group-size", options->group_size, "KV heads that share a latent")
      ->needs(synthetic)
      ->capture_default_str();
  command
      ->add_option("--latent-basis", options->basis,
                   "of --synthetic's keys, as palu compress has it: svd or rotary")
      ->check(CLI::IsMember({"svd", "rotary"}))
      ->needs(synthetic)
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "element type of --synthetic's weights")
      ->needs(synthetic)
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  command->add_option("--prompt", options->prompts, "prompt lengths to prefill, or none")
      ->capture_default_str();
  command->add_option("--depth", options->depths, "cached tokens to decode from, or none")
      ->capture_default_str();
  command->add_option("--batch", options->batches, "sequences that decode together")
      ->capture_default_str();
  command->add_option("--generate", options->suite.generate, "tokens to decode per sequence")
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  command->add_option("--repetitions", options->suite.repetitions, "runs of every point")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  command->add_option("--format", options->format, "of the report")
      ->check(CLI::IsMember({"md", "csv", "json"}))
      ->capture_default_str();
  command->add_option("--out", options->out, "file for the report instead of the terminal");
  AddCache(*command, options->cache);
  AddCommon(*command, options->common, true);
  command->callback([options, command] {
    if (command->get_subcommands().empty()) Run(*options);
  });
}

}  // namespace palu::cli
