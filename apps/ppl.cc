#include <fmt/format.h>

#include "base/progress.h"
#include "common.h"
#include "eval/perplexity.h"

namespace palu::cli {
namespace {

struct Options {
  CommonOptions common;
  CacheOptions cache;
  std::string model, text;
  int64_t seqlen = 2048, decode = 0;
  bool json = false;
};

void Run(const Options& options) {
  Session session(options.common);
  const Model model = Model::Load(options.model);
  const auto ids = EncodeFile(*RequireTokenizer(model), options.text);
  const int64_t windows = RequireWindowsOf(options.text, ids, options.seqlen);
  WarnBeyondContext(model.config(), options.seqlen);
  Scorer scorer(model, session.exec(),
                {.cache_format = MakeCacheFormat(options.cache),
                 .transformer = MakeTransformerOptions(options.cache)});
  AnnounceCache(scorer.cache().layout(), scorer.transformer());
  PerplexityResult result;
  {
    Progress progress("perplexity", windows, "windows");
    const auto tick = [&] { progress.Tick(); };
    result = options.decode > 0
                 ? DecodedPerplexity(scorer, ids, options.seqlen, options.decode, tick)
                 : Perplexity(scorer, ids, options.seqlen, tick);
  }
  if (options.json) {
    PrintJson({{"perplexity", result.perplexity},
               {"windows", result.windows},
               {"tokens", result.tokens},
               {"seconds", result.seconds},
               {"cache", CacheJson(scorer.cache().layout(), scorer.transformer())}});
  } else {
    fmt::print("perplexity {:.4f} over {} windows of {} tokens ({:.1f} s)\n", result.perplexity,
               result.windows, options.seqlen, result.seconds);
  }
}

}  // namespace

void AddPpl(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("ppl", "Perplexity of a text");
  command->add_option("MODEL", options->model, "model directory, dense or compressed")->required();
  command->add_option("--text", options->text, "text file")->required();
  command->add_option("--seqlen", options->seqlen, "tokens per window")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24));
  command
      ->add_option("--decode", options->decode,
                   "take tokens one at a time, as generation does, in this many windows side by "
                   "side; 0: a window is one prompt")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{4096}));
  command->add_flag("--json", options->json, "print JSON");
  AddCache(*command, options->cache);
  AddCommon(*command, options->common, true);
  command->callback([options] { Run(*options); });
}

}  // namespace palu::cli
