#include <fmt/format.h>

#include <cstdio>

#include "base/error.h"
#include "common.h"
#include "runtime/engine.h"

namespace palu::cli {
namespace {

struct Options {
  CommonOptions common;
  CacheOptions cache;
  std::string model, prompt;
  int64_t max_tokens = 128;
  int64_t max_cache_mib = 0;
  SamplingParams sampling;
  bool ignore_eos = false;
  bool json = false;
};

double Rate(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

void Run(const Options& options) {
  Session session(options.common);
  RequireUtf8(options.prompt, "--prompt");
  const Model model = Model::Load(options.model);
  const auto tokenizer = RequireTokenizer(model);
  EngineOptions engine_options;
  engine_options.cache_format = MakeCacheFormat(options.cache);
  engine_options.max_cache_bytes = options.max_cache_mib << 20;
  engine_options.transformer = MakeTransformerOptions(options.cache);
  Engine engine(model, session.exec(), engine_options);

  GenerationRequest request;
  request.prompt = tokenizer->EncodeWithBos(options.prompt);
  request.max_tokens = options.max_tokens;
  request.sampling = options.sampling;
  if (!options.ignore_eos) request.stop = model.config().eos_token_ids;
  const RequestId id = engine.Submit(request);
  WarnBeyondContext(model.config(), std::ssize(request.prompt) + request.max_tokens);
  AnnounceCache(engine.cache().layout(), engine.transformer());

  StreamDecoder decoder(*tokenizer);
  const auto print = [&](const std::string& text) {
    if (options.json) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  engine.Run([&](RequestId, TokenId token) { print(decoder.Push(token)); });
  print(decoder.Finish());

  const Engine::Result& result = engine.result(id);
  const Engine::Stats& stats = engine.stats();
  if (options.json) {
    PrintJson({{"prompt_ids", request.prompt},
               {"ids", result.tokens},
               {"text", tokenizer->Decode(result.tokens)},
               {"finish_reason", Name(result.reason)},
               {"prefill_tokens_per_second", Rate(stats.prefill_tokens, stats.prefill_seconds)},
               {"decode_tokens_per_second", Rate(stats.decode_tokens, stats.decode_seconds)},
               {"kv_bytes", stats.peak_cache_bytes},
               {"kv_bytes_per_token", engine.cache().layout().bytes_per_token()},
               {"cache_type", options.cache.dtype},
               {"cache", CacheJson(engine.cache().layout(), engine.transformer())}});
  } else {
    print("\n");
  }
  Require(result.reason != FinishReason::kCacheFull,
          "the KV cache is full after {} tokens: the limit of {} MiB holds {} tokens",
          request.prompt.size() + result.tokens.size(), options.max_cache_mib,
          (options.max_cache_mib << 20) / engine.cache().layout().block_bytes() * kBlockTokens);
}

}  // namespace

void AddGenerate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt");
  command->add_option("MODEL", options->model, "model directory, dense or compressed")->required();
  command->add_option("--prompt", options->prompt, "text to continue")->required();
  command->add_option("--max-tokens", options->max_tokens, "tokens to generate at most")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0 is greedy")
      ->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "0 keeps all tokens")
      ->capture_default_str();
  command->add_option("--top-p", options->sampling.top_p, "nucleus sampling")
      ->capture_default_str();
  command
      ->add_option("--min-p", options->sampling.min_p,
                   "drop tokens below this share of the likeliest one")
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "of the sampler")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--max-cache-mib", options->max_cache_mib,
                   "bound of the KV cache's blocks; 0: none")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_flag("--ignore-eos", options->ignore_eos, "go on after the end-of-text token");
  command->add_flag("--json", options->json, "print JSON at the end instead of streaming text");
  AddCache(*command, options->cache);
  AddCommon(*command, options->common, true);
  command->callback([options] { Run(*options); });
}

}  // namespace palu::cli
