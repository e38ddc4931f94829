#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "common.h"
#include "compress/calibrate.h"
#include "compress/pipeline.h"
#include "compress_budget.h"
#include "eval/perplexity.h"
#include "format/model_card.h"
#include "format/tier_picture.h"
#include "ops/frequency_split.h"
#include "runtime/cache_layout.h"

namespace palu::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model, out, stats, measure;
  std::vector<std::string> calib;
  CompressOptions compress;
  BudgetCommand budget;
  bool hadamard = false, no_hadamard = false;
  std::optional<int64_t> rank_multiple;
  std::optional<double> split_tolerance;
  std::string search = "fisher-uniform", decompose = "whiten", dtype = "auto", basis = "svd";
  int64_t calib_windows = 64, calib_seqlen = 1024, fisher_windows = 32;
  int64_t measure_seqlen = 2048;
  bool force = false;
};

DType FactorType(const std::string& name) {
  if (name == "f32") return DType::kF32;
  return name == "bf16" ? DType::kBF16 : DType::kF16;
}

CompressOptions Resolve(const Options& options, const ModelConfig& config) {
  CompressOptions compress = options.compress;
  compress.ranks.rank_multiple = options.rank_multiple.value_or(
      DefaultRankMultiple(compress.ranks.group_size * config.head_dim));
  std::string name = options.search;
  std::replace(name.begin(), name.end(), '-', '_');
  compress.ranks.search = ParseRankSearch(name).value();
  compress.decomposition =
      options.decompose == "svd" ? Decomposition::kSvd : Decomposition::kWhiten;
  compress.hadamard = options.hadamard || (compress.quantization.enabled() && !options.no_hadamard);
  compress.rotary_basis = options.basis == "rotary";
  if (options.dtype != "auto") compress.factor_dtype = FactorType(options.dtype);
  return compress;
}

// The files' text, joined in the given order and tokenised once after one BOS.
std::vector<TokenId> CalibrationIds(const Model& model, const std::vector<std::string>& files) {
  std::string text;
  for (const std::string& file : files) text += ReadUtf8File(file);
  return RequireTokenizer(model)->EncodeWithBos(text);
}

CalibrationStats FreshStats(const Options& options, const Model& model, const Exec& exec,
                            std::span<const TokenId> ids, const CalibrationSource& source) {
  CalibrationStats stats;
  {
    Progress progress("calibrate", source.windows, "windows");
    stats = Calibrate(model, ids, source, exec, [&] { progress.Tick(); });
  }
  for (const std::string& file : options.calib) {
    stats.files += (stats.files.empty() ? "" : ", ") + DirectoryName(file);
  }
  if (!options.stats.empty()) SaveStats(options.stats, stats);
  return stats;
}

// Whole windows after those of the calibration, as many as there are and are wanted.
HeldOutText TakeHeldOut(const Options& options, std::span<const TokenId> ids) {
  const int64_t seqlen = options.calib_seqlen, begin = options.calib_windows * seqlen;
  const int64_t windows =
      std::min(options.budget.held_out_windows, (std::ssize(ids) - begin) / seqlen);
  const auto text = ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(windows * seqlen));
  return {{text.begin(), text.end()}, seqlen};
}

// From the statistics file where there is one, else from the text. A file is checked against the
// text when both are given. `held_out` receives what follows the calibration's windows, for
// --budget.
CalibrationStats ObtainStats(const Options& options, const CompressOptions& compress,
                             const Model& model, const Exec& exec, HeldOutText& held_out) {
  const bool have_file = !options.stats.empty() && std::filesystem::exists(options.stats);
  const bool budget = options.budget.Chosen();
  const bool wanted = budget || NeedsGrams(compress) || NeedsFisher(compress);
  if (!wanted && options.stats.empty()) return {};
  Require(have_file || !options.calib.empty(),
          "no calibration text: give --calib FILE, or --stats FILE of an earlier run");
  if (options.calib.empty()) {
    CalibrationSource source = ReadStatsSource(options.stats);
    source.model = Fingerprint(model);
    source.two_sided = budget;
    if (budget) source.recent = options.budget.options.recent;
    Require(!NeedsFisher(compress) || source.fisher_windows > 0,
            "{}: the statistics have no Fisher information, which --search {} needs", options.stats,
            options.search);
    return LoadStats(options.stats, source, model.config());
  }
  // A file that is to be reused holds everything.
  const bool fisher = budget || NeedsFisher(compress) || !options.stats.empty();
  const std::vector<TokenId> ids = CalibrationIds(model, options.calib);
  Require(
      options.calib_seqlen < 2 || std::ssize(ids) / options.calib_seqlen >= options.calib_windows,
      "{}: expected {} windows of {} tokens, found {} tokens, BOS included",
      fmt::join(options.calib, ", "), options.calib_windows, options.calib_seqlen, ids.size());
  const CalibrationSource source =
      PlanCalibration(model, ids, options.calib_windows, options.calib_seqlen,
                      fisher ? std::min(options.fisher_windows, options.calib_windows) : 0, budget,
                      options.budget.options.recent);
  if (budget) held_out = TakeHeldOut(options, ids);
  Require(!NeedsFisher(compress) || source.fisher_windows > 0,
          "fisher-windows: expected 1 or more for --search {}, found 0", options.search);
  if (have_file) return LoadStats(options.stats, source, model.config());
  return FreshStats(options, model, exec, ids, source);
}

std::string CalibrationLine(const CalibrationStats& stats) {
  const CalibrationSource& source = stats.source;
  if (source.windows == 0) return "none";
  return fmt::format("{} windows of {} tokens{}{}, the first {} for Fisher (text {})",
                     source.windows, source.seqlen, stats.files.empty() ? "" : " of ", stats.files,
                     source.fisher_windows, source.text);
}

Figures CacheFigures(const ModelConfig& config) {
  const CacheLayout layout(config, DType::kF16);
  const double dense = static_cast<double>(DenseBytesPerToken(config));
  return {{"KV bytes per token, dense fp16", fmt::format("{:.0f}", dense)},
          {layout.tiered()
               ? "KV bytes per token"
               : fmt::format("KV bytes per token, {}-bit latents", layout.quantization().bits),
           fmt::format("{:.0f}", layout.bytes_per_token())},
          {"ratio", fmt::format("{:.4f}", layout.bytes_per_token() / dense)},
          {"bits per element", fmt::format("{:.3f}", layout.bits_per_element())}};
}

// The text of --measure; empty when there is none. Throws Error when it is shorter than a window.
std::vector<TokenId> MeasureIds(const Options& options, const Model& model) {
  if (options.measure.empty()) return {};
  auto ids = EncodeFile(*RequireTokenizer(model), options.measure);
  Require(options.measure_seqlen >= 2, "measure-seqlen: expected 2 or more, found {}",
          options.measure_seqlen);
  RequireWindowsOf(options.measure, ids, options.measure_seqlen);
  return ids;
}

double MeasurePerplexity(const Options& options, const Model& model, const Exec& exec,
                         std::span<const TokenId> ids, const std::string& label) {
  Scorer scorer(model, exec);
  Progress progress("perplexity, " + label, CountWindows(std::ssize(ids), options.measure_seqlen),
                    "windows");
  return Perplexity(scorer, ids, options.measure_seqlen, [&] { progress.Tick(); }).perplexity;
}

std::string Title(const Options& options, const CompressOptions& compress) {
  const std::string name = DirectoryName(options.model);
  if (options.budget.Chosen()) {
    return fmt::format("{}, KV cache in {:g} bits per element", name,
                       options.budget.options.bits_per_element);
  }
  return fmt::format("{}, KV cache at {:g} %", name, 100 * compress.ranks.ratio);
}

void Run(const Options& options) {
  const bool to_budget = options.budget.Chosen();
  Session session(options.common);
  const Model model = Model::Load(options.model);
  const CompressOptions compress = Resolve(options, model.config());
  // What can be refused is refused before the work.
  BudgetCompressOptions budget;
  if (to_budget) {
    budget = options.budget.Resolve(compress.ranks.group_size, compress.factor_dtype);
    CheckBudgetOptions(model, budget);
  } else {
    CheckOptions(model, compress);
  }
  const LatentQuantization& q = compress.quantization;
  Require(q.enabled() || (q.group == 0 && !q.symmetric && q.clip_ratio == 1),
          "--quant-group, --symmetric and --clip-ratio are for quantised latents: give --bits");
  std::vector<std::filesystem::path> inputs{options.model, options.stats, options.measure};
  inputs.insert(inputs.end(), options.calib.begin(), options.calib.end());
  CheckOutput(options.out, options.force, inputs);
  if (!options.stats.empty()) {
    const auto folder = std::filesystem::absolute(options.stats).parent_path();
    Require(std::filesystem::is_directory(folder), "{}: no such directory to create {} in",
            folder.string(), DirectoryName(options.stats));
  }
  const std::vector<TokenId> measured = MeasureIds(options, model);
  StagedDirectory staged(options.out, options.force);
  HeldOutText held_out;
  const CalibrationStats stats = ObtainStats(options, compress, model, session.exec(), held_out);

  Figures predicted;
  CompressionResult result;
  if (to_budget) {
    result =
        CompressToBudget(options.budget, model, stats, budget, held_out, session.exec(), predicted);
  } else {
    Progress progress("decompose", model.config().num_layers, "layers");
    result = Compress(model, stats, compress, session.exec(), [&] { progress.Tick(); });
  }
  result.compression.split_tolerance = options.split_tolerance.value_or(0);
  result.compression.source_model = DirectoryName(options.model);
  result.compression.calibration = CalibrationLine(stats);
  if (result.repaired_layers > 0) {
    Warn("{} layers had a Gram matrix that is not positive definite; repaired",
         result.repaired_layers);
  }
  ModelConfig config = model.config();
  config.compression = result.compression;
  Figures figures = CacheFigures(config);
  figures.insert(figures.end(), predicted.begin(), predicted.end());
  const std::string title = Title(options, compress);
  const TensorStore store = TensorStore::OpenDirectory(options.model);
  WriteCompressedModel({options.model, store, model.config(), result.compression, result.factors,
                        MakeModelCard(title, config, figures)},
                       staged.path());
  if (!options.measure.empty()) {
    const Model compressed = Model::Load(staged.path());
    const double before = MeasurePerplexity(options, model, session.exec(), measured, "dense");
    const double after =
        MeasurePerplexity(options, compressed, session.exec(), measured, "compressed");
    const std::string text = std::filesystem::path(options.measure).filename();
    figures.emplace_back(fmt::format("perplexity on {} at {}, dense", text, options.measure_seqlen),
                         fmt::format("{:.4f}", before));
    figures.emplace_back(
        fmt::format("perplexity on {} at {}, compressed", text, options.measure_seqlen),
        fmt::format("{:.4f} ({:+.2f} %)", after, 100 * (after / before - 1)));
    WriteFileAtomically(staged.path() / "README.md", MakeModelCard(title, config, figures));
  }
  staged.Commit();
  if (!to_budget && KeptFraction(config, result.compression.layers) == 1.0) {
    Warn(
        "every projection kept its full width: the KV cache is no smaller (a rank multiple of {} "
        "against groups of {}); try a smaller --rank-multiple or --ratio",
        compress.ranks.rank_multiple, compress.ranks.group_size * config.head_dim);
  }
  for (const std::string& line : TierPicture(config)) Info("{}", line);
  for (const auto& [label, value] : figures) Info("{}: {}", label, value);
  Info("wrote {}", options.out);
}

}  // namespace

void AddCompress(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("compress", "Make a model's KV cache low-rank");
  RankSearchOptions& ranks = options->compress.ranks;
  command->add_option("MODEL", options->model, "dense model directory")->required();
  command->add_option("OUT", options->out, "directory to create")->required();
  AddBudget(*command, options->budget);
  command->add_option("--ratio", ranks.ratio, "kept rank over full rank, in (0, 1]")
      ->capture_default_str();
  command->add_option("--group-size", ranks.group_size, "KV heads per group")
      ->capture_default_str();
  command->add_option("--search", options->search, "how ranks are allotted")
      ->check(CLI::IsMember({"fisher-uniform", "fisher", "uniform"}))
      ->capture_default_str();
  command->add_option("--decompose", options->decompose, "whitened by the inputs, or plain")
      ->check(CLI::IsMember({"whiten", "svd"}))
      ->capture_default_str();
  LatentQuantization& quantization = options->compress.quantization;
  command->add_option("--bits", quantization.bits, "bits per stored latent; 16: not quantised")
      ->check(CLI::IsMember({2, 3, 4, 8, 16}))
      ->capture_default_str();
  CLI::Option* hadamard = command->add_flag(
      "--hadamard", options->hadamard,
      "rotate latents so that none stands out; the default when they are quantised");
  command->add_flag("--no-hadamard", options->no_hadamard, "leave them as they are")
      ->excludes(hadamard);
  command
      ->add_option("--latent-basis", options->basis,
                   "of keys: the decomposition's own, or one in which a head's fast rotary pairs "
                   "need few latents, for faster decoding")
      ->check(CLI::IsMember({"svd", "rotary"}))
      ->capture_default_str();
  command
      ->add_option("--quant-group", quantization.group,
                   "latents that share a scale; 0: all of a token's in a group of heads")
      ->capture_default_str();
  command->add_flag("--symmetric", quantization.symmetric,
                    "quantise around zero, without stored zero points");
  command
      ->add_option("--clip-ratio", quantization.clip_ratio,
                   "part of the range that is kept, in (0, 1]")
      ->capture_default_str();
  command->add_option("--rank-multiple", options->rank_multiple,
                      "ranks are multiples of this; 32, or 16 for groups narrower than 128");
  command
      ->add_option("--split-tolerance", options->split_tolerance,
                   fmt::format("error of slow rotary pairs that decoding may make for speed, of a "
                               "rotation's unit length; {} if not given",
                               kSplitTolerance))
      ->check(CLI::Range(kLeastSplitTolerance, kMostSplitTolerance));
  command->add_option("--calib", options->calib, "calibration texts, joined in this order");
  command->add_option("--calib-windows", options->calib_windows, "windows for the Gram matrices")
      ->capture_default_str();
  command->add_option("--calib-seqlen", options->calib_seqlen, "tokens per window")
      ->capture_default_str();
  command
      ->add_option("--fisher-windows", options->fisher_windows,
                   "of them, windows for the Fisher information")
      ->capture_default_str();
  command->add_option("--stats", options->stats,
                      "calibration statistics: read when the file exists, else written; those of a "
                      "budget belong to one --recent");
  command
      ->add_option("--factor-type", options->dtype,
                   "element type of the factors; auto: the projection's own")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16"}))
      ->capture_default_str();
  command->add_option("--measure", options->measure,
                      "text whose perplexity, dense and compressed, goes into the model card");
  command->add_option("--measure-seqlen", options->measure_seqlen, "tokens per window of that text")
      ->capture_default_str();
  command->add_flag("--force", options->force, "replace OUT when it exists");
  AddCommon(*command, options->common, true);
  SetPublishedApart(*command, options->budget);
  command->callback([options] { Run(*options); });
}

}  // namespace palu::cli
