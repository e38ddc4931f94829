// `palu eval --tasks passkey`: accuracy by length and depth, as a table and a heat map.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "eval.h"
#include "eval/bench/suite.h"
#include "eval/passkey_grid.h"
#include "tokenizer/utf8.h"

namespace palu::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kMaxFillerBytes = int64_t{64} << 20;

struct Options {
  PasskeyOptions task;
  std::string lengths = "256,512,1024,2048";
  std::string filler, out;
};

// Those that the model was made for; one sentence about the others.
std::vector<int64_t> LengthsWithin(const std::string& text, int64_t context) {
  std::vector<int64_t> lengths = ParseIntList(text, "--lengths", 1, int64_t{1} << 24);
  const auto too_long = [&](int64_t length) { return length > context; };
  Require(!std::all_of(lengths.begin(), lengths.end(), too_long),
          "--lengths: expected one within the model's context of {} tokens, found {}", context,
          text);
  for (const int64_t length : lengths) {
    if (!too_long(length)) continue;
    Warn("passkey: {} tokens are left out, the model's context is {}", length, context);
  }
  std::erase_if(lengths, too_long);
  return lengths;
}

// Before the long work: whether the plots can be written at its end.
void RequirePlace(const fs::path& out) {
  const fs::path parent = fs::absolute(out / "").parent_path().parent_path();
  Require(fs::is_directory(out) || (!fs::exists(out) && fs::is_directory(parent)),
          "--out: {}: expected a directory, or a new name in one", out.string());
}

ordered_json Json(const PasskeyResult& result) {
  const double acc = PasskeyAccuracy(result.cells);
  const auto n = static_cast<double>(result.items.size());
  ordered_json json = {{"n", result.items.size()},
                       {"acc", acc},
                       {"acc_stderr", nullptr},
                       {"grid", ordered_json::array()}};
  if (n > 1) json["acc_stderr"] = std::sqrt(acc * (1 - acc) / (n - 1));
  for (const PasskeyCell& cell : result.cells) {
    json["grid"].push_back(
        {{"length", cell.length}, {"depth", cell.depth}, {"acc", cell.accuracy()}, {"n", cell.n}});
  }
  return json;
}

void WritePlots(const HeatMap& map, const fs::path& out) {
  const std::string svg = Render(map, ImageFormat::kSvg), png = Render(map, ImageFormat::kPng);
  std::error_code error;
  fs::create_directory(out, error);
  Require(!error, "{}: cannot be made: {}", out.string(), error.message());
  WriteFileAtomically(out / "passkey.svg", svg);
  WriteFileAtomically(out / "passkey.png", png);
}

void WriteItems(const EvalContext& context, const PasskeyResult& result) {
  for (size_t i = 0; i < result.items.size(); ++i) {
    const PasskeyItem& item = result.items[i];
    const PasskeyCell& cell = result.cells[item.cell];
    context.item({{"task", "passkey"},
                  {"index", i},
                  {"length", cell.length},
                  {"depth", cell.depth},
                  {"key", item.key},
                  {"answer", SanitizeUtf8(item.answer)},
                  {"acc", item.correct}});
  }
}

EvalReport Run(const Options& options, const EvalContext& context) {
  PasskeyOptions task = options.task;
  task.lengths = LengthsWithin(options.lengths, context.model.config().max_position);
  if (!options.out.empty()) RequirePlace(options.out);
  const std::vector<TokenId> filler = context.tokenizer.Encode(
      options.filler.empty() ? std::string(DefaultPasskeyFiller())
                             : ReadUtf8File(options.filler, kMaxFillerBytes));
  EngineOptions engine_options;
  engine_options.cache_format = context.Format(DType::kF16);
  engine_options.transformer = MakeTransformerOptions(context.options.cache);
  Engine engine(context.model, context.exec, engine_options);
  AnnounceCache(engine.cache().layout(), engine.transformer());
  PasskeyResult result;
  {
    Progress progress("passkey", std::ssize(task.lengths) * task.depths * task.trials, "prompts");
    result = RunPasskey(engine, context.tokenizer, filler, task,
                        [&](int64_t count) { progress.Tick(count); });
  }
  WriteItems(context, result);
  if (!options.out.empty()) {
    PlotOrWarn([&] {
      WritePlots(PasskeyHeatMap(DirectoryName(context.options.model), task, result.cells),
                 options.out);
    });
  }
  EvalReport report{.json = Json(result), .text = PasskeyTable(task, result.cells)};
  report.json["cache"] = CacheJson(engine.cache().layout(), engine.transformer());
  return report;
}

}  // namespace

std::vector<EvalTask> AddPasskeyTask(CLI::App& command) {
  auto options = std::make_shared<Options>();
  command.add_option("--lengths", options->lengths, "passkey: tokens of the prompts")
      ->capture_default_str();
  command
      .add_option("--depths", options->task.depths,
                  "passkey: stretches of the text, with keys in the middle of each")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  command.add_option("--trials", options->task.trials, "passkey: prompts of each length and depth")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}))
      ->capture_default_str();
  command.add_option("--seed", options->task.seed, "passkey: of keys and filler")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--filler", options->filler,
                     "passkey: text file around the key instead of the built-in text");
  command.add_option("--out", options->out,
                     "passkey: directory for the heat map, passkey.svg and passkey.png");
  return {{"passkey", [options](const EvalContext& context) { return Run(*options, context); }}};
}

}  // namespace palu::cli
