// Decode attention of one layer alone on a GPU, the forms of a cache side by side.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "bench.h"
#include "eval/bench/attention_report.h"
#include "model/presets.h"

namespace palu::cli {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxContext = int64_t{1} << 24;

struct Options {
  CommonOptions common;
  std::string models = "llama-2-7b";
  std::string contexts = "4096,16384,65536,262144", batches = "1,4,16";
  std::string forms = "dense,16@50,4@50,16@25/75,4@25/75";
  AttentionOptions attention;
  std::vector<std::string> formats = {"md"};
  std::string out, plot;
};

AttentionOptions Parse(const Options& options) {
  AttentionOptions attention = options.attention;
  Require(!attention.prefill || options.plot.empty(),
          "--plot: there is no speed-up over dense to draw with --prefill");
  for (size_t begin = 0; begin <= options.models.size();) {
    const size_t end = std::min(options.models.find(',', begin), options.models.size());
    const std::string name = options.models.substr(begin, end - begin);
    attention.models.emplace_back(name, SyntheticConfig(name));
    begin = end + 1;
  }
  attention.contexts = ParseIntList(options.contexts, "--context", 1, kMaxContext);
  attention.batches = ParseIntList(options.batches, "--batch", 1, 4096);
  attention.forms = ParseForms(options.forms);
  Require(!attention.contexts.empty() && !attention.batches.empty(),
          "nothing to measure: give --context and --batch");
  return attention;
}

// FILE.svg, or FILE-NAME.svg where there are several charts.
void WriteCharts(const fs::path& file, const std::vector<NamedChart>& charts) {
  const ImageFormat format = file.extension() == ".png" ? ImageFormat::kPng : ImageFormat::kSvg;
  if (charts.empty()) Warn("{}: nothing to draw: no form was timed beside dense", file.string());
  for (const NamedChart& chart : charts) {
    fs::path path = file;
    if (charts.size() > 1) {
      path.replace_filename(
          fmt::format("{}-{}{}", file.stem().string(), chart.name, file.extension().string()));
    }
    WriteFileAtomically(path, Render(chart.chart, format));
  }
}

// Of several formats each has its own file.
std::string OutFile(const Options& options, const std::string& format) {
  if (options.out.empty() || options.formats.size() == 1) return options.out;
  return options.out + "." + format;
}

void Run(const Options& options) {
  const AttentionOptions attention = Parse(options);
  for (const std::string& format : options.formats) {
    CheckOutputFile("--out", OutFile(options, format));
  }
  CheckOutputFile("--plot", options.plot);
  Session session(options.common);
  const Exec exec = session.exec();
  const auto device = MakeAttentionDevice(exec);

  AttentionReport report;
  report.l2_bytes = device->l2_bytes();
  report.group_size = attention.group_size;
  report.repetitions = attention.repetitions;
  report.prefill = attention.prefill;
  Info("bench: measuring the device");
  report.machine = MeasureMachine(exec);
  {
    const size_t points =
        attention.models.size() * attention.contexts.size() * attention.batches.size();
    Progress progress("bench", static_cast<int64_t>(points), "points");
    report.rows = RunAttention(attention, *device, [&] { progress.Tick(); });
  }
  for (const std::string& format : options.formats) {
    const std::string text = Format(report, ParseReportFormat(format));
    const std::string file = OutFile(options, format);
    if (file.empty()) {
      fmt::print("{}", text);
    } else {
      WriteFileAtomically(file, text);
    }
  }
  if (!options.plot.empty()) PlotOrWarn([&] { WriteCharts(options.plot, SpeedUpCharts(report)); });
}

}  // namespace

void AddBenchAttention(CLI::App& bench) {
  auto options = std::make_shared<Options>();
  options->common.device = "cuda";
  CLI::App* command =
      bench.add_subcommand("attention", "Decode attention of one layer alone, on a GPU");
  command
      ->add_option("--synthetic", options->models,
                   fmt::format("shapes, separated by commas: {} or paths of a config.json",
                               fmt::join(PresetNames(), ", ")))
      ->capture_default_str();
  command->add_option("--context", options->contexts, "cached tokens per sequence")
      ->capture_default_str();
  command->add_option("--batch", options->batches, "sequences that decode together")
      ->capture_default_str();
  command
      ->add_option("--forms", options->forms,
                   "dense, BITS@PERCENT or BITS@KEYS/VALUES, after r with keys in the rotary "
                   "basis: bits per latent, 2, 3, 4, 8 or 16, "
                   "and latents in per cent of the width; dense is always measured")
      ->capture_default_str();
  command->add_flag("--prefill", options->attention.prefill,
                    "time prompts of that many tokens over dense keys and values instead of decode "
                    "steps; --forms does not count");
  command->add_option("--group-size", options->attention.group_size, "KV heads that share a latent")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 10))
      ->capture_default_str();
  command->add_option("--repetitions", options->attention.repetitions, "timed steps of every point")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}))
      ->capture_default_str();
  command->add_option("--format", options->formats, "of the report: one or several of them")
      ->check(CLI::IsMember({"md", "csv", "json"}))
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--out", options->out,
                      "file for the report instead of the terminal; with several formats FILE.md, "
                      "FILE.csv, FILE.json");
  command->add_option("--plot", options->plot,
                      "SVG or PNG file: speed-up over dense against the context; with several "
                      "models or batches FILE-MODEL-bN.svg");
  AddCommon(*command, options->common, true);
  command->callback([options] { Run(*options); });
}

}  // namespace palu::cli
