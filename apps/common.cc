#include "common.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "eval/perplexity.h"
#include "tokenizer/utf8.h"

namespace palu::cli {
namespace {

constexpr std::string_view kCudaPrefix = "cuda:";

// An empty string for "cuda:N", else what is wrong; as CLI11 wants it.
std::string IsCudaDevice(const std::string& text) {
  const bool number = text.starts_with(kCudaPrefix) && text.size() > kCudaPrefix.size() &&
                      text.size() <= kCudaPrefix.size() + 3 &&
                      text.find_first_not_of("0123456789", kCudaPrefix.size()) == std::string::npos;
  return number ? "" : fmt::format("expected cpu, cuda or cuda:N, found '{}'", text);
}

// Of a text that the option's checks have passed. Throws Error for a device that is not there.
Device ParseDevice(const std::string& text) {
  if (text == "cpu") return kCpu;
  Device device{Device::Kind::kCuda};
  if (text.starts_with(kCudaPrefix)) device.index = std::stoi(text.substr(kCudaPrefix.size()));
  const auto devices = std::ssize(CudaDevices());
  Require(device.index < devices, "--device: {} CUDA devices are here, found '{}'", devices, text);
  return device;
}

// "f32", "f16" or "bf16", which the option's checks have seen to.
DType ParseType(const std::string& name) {
  if (name == "f32") return DType::kF32;
  return name == "bf16" ? DType::kBF16 : DType::kF16;
}

}  // namespace

void AddCommon(CLI::App& app, CommonOptions& options, bool runs_model) {
  app.add_option("--threads", options.threads, "CPU threads; 0 means all")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--quiet", options.quiet, "no progress and no log lines");
  if (runs_model) {
    app.add_flag("--deterministic", options.deterministic,
                 "results do not depend on the batch, bit for bit; slower");
    app.add_option("--device", options.device, "where the model runs: cpu, cuda or cuda:N")
        ->check(CLI::IsMember({"cpu", "cuda"}) | CLI::Validator(IsCudaDevice, "cuda:N"))
        ->capture_default_str();
  }
}

void AddCacheFormat(CLI::App& app, CacheOptions& options) {
  app.add_option("--cache-type", options.dtype, "element type of the KV cache")
      ->check(CLI::IsMember({"f16", "bf16", "f32"}))
      ->capture_default_str();
  app.add_option("--latent-bits", options.latent_bits,
                 "bits per latent instead of the model's own, for experiments; 16: not quantised")
      ->check(CLI::IsMember({2, 3, 4, 8, 16}));
}

void AddCache(CLI::App& app, CacheOptions& options) {
  AddCacheFormat(app, options);
  app.add_option("--fuse-values", options.fuse_values,
                 "apply U_v inside the output projection: by byte count, always or never")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  app.add_option(
         "--attend", options.attend,
         "what prefill attends to within a chunk: keys and values as computed, or as stored "
         "in the cache; on a GPU always as stored")
      ->check(CLI::IsMember({"computed", "stored"}))
      ->capture_default_str();
  app.add_option("--rope-angles", options.rope_angles,
                 "precision of the rotary angles: as the reference implementations round them, or "
                 "exact at any position; exact, too, on a GPU unless the cache is f32")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->capture_default_str();
  app.add_option("--frequency-split", options.frequency_split,
                 "decode with slow rotary pairs of keys as a few shared waves, and weights of "
                 "quantised values in 15 bits, where that is less work; or with whole keys and "
                 "float32 weights always; on the CPU")
      ->check(CLI::IsMember({"auto", "off"}))
      ->capture_default_str();
  app.add_option("--weight-type", options.weight_type,
                 "element type of weights and products on a GPU; default: the model's own, f16 for "
                 "bf16 where that loses next to nothing")
      ->check(CLI::IsMember({"f16", "bf16", "f32"}));
}

CacheFormat MakeCacheFormat(const CacheOptions& options) {
  return {ParseType(options.dtype), options.latent_bits};
}

CacheFormat MakeCacheFormat(const CacheOptions& options, const Model& model) {
  CacheFormat format = MakeCacheFormat(options);
  if (!model.config().compression) format.latent_bits.reset();
  return format;
}

TransformerOptions MakeTransformerOptions(const CacheOptions& options) {
  TransformerOptions result;
  if (options.fuse_values == "on") result.fusion = ValueFusion::kOn;
  if (options.fuse_values == "off") result.fusion = ValueFusion::kOff;
  if (options.rope_angles == "float64") result.rope_angles = RopeAngles::kFloat64;
  result.frequency_split = options.frequency_split == "auto";
  result.attend_stored = options.attend == "stored";
  if (options.weight_type) result.weight_dtype = ParseType(*options.weight_type);
  return result;
}

Session::Session(const CommonOptions& options)
    : pool_(options.threads),
      device_(ParseDevice(options.device)),
      deterministic_(options.deterministic) {
  SetQuiet(options.quiet);
}

std::unique_ptr<Tokenizer> RequireTokenizer(const Model& model) {
  auto tokenizer = LoadTokenizer(model.path(), model.config().bos_token_id);
  Require(tokenizer != nullptr,
          "{}: this command needs text, and there is no tokenizer: expected tokenizer.json or "
          "tokenizer.model",
          model.path().string());
  Require(tokenizer->vocab_size() <= model.config().vocab_size ||
              tokenizer->vocab_size() <= model.config().vocab_size + 64,
          "{}: the tokenizer has {} tokens, the model {}", model.path().string(),
          tokenizer->vocab_size(), model.config().vocab_size);
  return tokenizer;
}

void RequireUtf8(std::string_view text, std::string_view where) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = ReadUtf8(text, at);
    Require(c.state != Utf8Char::State::kMalformed, "{}: expected UTF-8, found 0x{:02X} as byte {}",
            where, static_cast<unsigned char>(text[at]), at);
    at += c.length;
  }
}

std::string ReadUtf8File(const std::filesystem::path& path, int64_t max_bytes) {
  std::string text = ReadTextFile(path, max_bytes);
  RequireUtf8(text, path.string());
  return text;
}

std::vector<TokenId> EncodeFile(const Tokenizer& tokenizer, const std::filesystem::path& path) {
  return tokenizer.EncodeWithBos(ReadUtf8File(path));
}

std::vector<TokenId> EncodeForBoth(const Model& dense, const Model& compressed,
                                   const std::string& text) {
  const int64_t vocab = dense.config().vocab_size, other = compressed.config().vocab_size;
  Require(vocab == other, "{}: expected the vocabulary of {}, {} tokens, found {}",
          compressed.path().string(), dense.path().string(), vocab, other);
  std::vector<TokenId> ids = EncodeFile(*RequireTokenizer(dense), text);
  const std::vector<TokenId> others = EncodeFile(*RequireTokenizer(compressed), text);
  const auto at = std::mismatch(ids.begin(), ids.end(), others.begin(), others.end()).first;
  Require(ids == others,
          "{}: expected the tokenizer of {}, found one that gives other ids for {} "
          "from token {} on",
          compressed.path().string(), dense.path().string(), text, at - ids.begin());
  return ids;
}

int64_t RequireWindowsOf(const std::string& file, std::span<const TokenId> ids, int64_t seqlen) {
  const int64_t windows = CountWindows(std::ssize(ids), seqlen);
  Require(windows > 0, "{}: expected at least one window of {} tokens, found {}, BOS included",
          file, seqlen, ids.size());
  return windows;
}

void WarnBeyondContext(const ModelConfig& config, int64_t tokens) {
  if (tokens <= config.max_position) return;
  Warn("{} tokens go beyond the model's context of {}", tokens, config.max_position);
}

std::string DirectoryName(const std::filesystem::path& path) {
  const std::filesystem::path normal = path.lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).filename().string();
}

void CheckOutput(const std::filesystem::path& out, bool force,
                 const std::vector<std::filesystem::path>& inputs) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  fs::path target = fs::weakly_canonical(fs::absolute(out, ignored), ignored);
  if (!target.has_filename()) target = target.parent_path();
  for (const fs::path& input : inputs) {
    if (input.empty() || target.empty()) continue;
    const fs::path source = fs::weakly_canonical(fs::absolute(input, ignored), ignored);
    const auto [end, rest] =
        std::mismatch(target.begin(), target.end(), source.begin(), source.end());
    Require(end != target.end(), "{}: expected a directory apart from what is read, found {} in it",
            out.string(), input.string());
  }
  Require(!force || !fs::is_directory(out, ignored) || fs::exists(out / "config.json", ignored) ||
              fs::is_empty(out, ignored),
          "{}: expected a model directory for --force to replace, found no config.json",
          out.string());
}

void PlotOrWarn(const std::function<void()>& draw) {
  try {
    draw();
  } catch (const Error& error) {
    Warn("{}", error.what());
  }
}

void CheckOutputFile(std::string_view option, const std::filesystem::path& out,
                     const std::vector<std::filesystem::path>& inputs) {
  namespace fs = std::filesystem;
  if (out.empty()) return;
  std::error_code ignored;
  Require(!fs::is_directory(out, ignored), "{}: {}: expected a file, found a directory", option,
          out.string());
  const fs::path folder = out.parent_path();
  Require(folder.empty() || fs::is_directory(folder, ignored), "{}: {} is not a directory", option,
          folder.string());
  for (const fs::path& input : inputs) {
    Require(!fs::equivalent(out, input, ignored), "{}: {}: expected a file apart from what is read",
            option, out.string());
  }
}

void AnnounceCache(const CacheLayout& layout, const Transformer& transformer) {
  Info("KV cache: {}", layout.Describe(transformer.kernel()));
}

nlohmann::ordered_json CacheJson(const CacheLayout& layout, const Transformer& transformer) {
  return CacheJson(layout, transformer.kernel());
}

nlohmann::ordered_json CacheJson(const CacheLayout& layout, const std::string& kernel) {
  const LatentQuantization& q = layout.quantization();
  const CacheLayout::Bytes& bytes = layout.bytes();
  const nlohmann::ordered_json latent_bits =
      layout.tiered() ? nlohmann::ordered_json(layout.latent_bits())
                      : nlohmann::ordered_json(static_cast<int>(layout.latent_bits()));
  return {{"type", Name(layout.dtype())},
          {"latents_per_token", layout.latents_per_token()},
          {"plain_per_token", layout.plain_per_token()},
          {"latent_bits", latent_bits},
          {"quant_group", q.group},
          {"symmetric", q.symmetric},
          {"clip_ratio", q.clip_ratio},
          {"bytes_per_token", layout.bytes_per_token()},
          {"bits_per_element", layout.bits_per_element()},
          {"bytes",
           {{"codes", bytes.codes},
            {"scales", bytes.scales},
            {"zeros", bytes.zeros},
            {"elements", bytes.elements},
            {"padding", bytes.padding},
            {"recent", bytes.recent}}},
          {"kernel", kernel}};
}

std::string JsonLine(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void PrintJson(const nlohmann::ordered_json& json) { fmt::print("{}", JsonLine(json)); }

}  // namespace palu::cli
