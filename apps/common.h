// What every sub-command shares: the options all of them take, and how they load a model.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/weights.h"
#include "runtime/transformer.h"
#include "tensor/exec.h"
#include "tokenizer/tokenizer.h"

namespace palu::cli {

struct CommonOptions {
  int threads = 0;  // 0: one per CPU
  bool quiet = false;
  bool deterministic = false;
  std::string device = "cpu";
};

// --threads, --quiet, and with `runs_model` --deterministic and --device.
void AddCommon(CLI::App& app, CommonOptions& options, bool runs_model);

struct CacheOptions {
  std::string dtype = "f16";
  std::optional<int> latent_bits;
  std::string fuse_values = "auto";
  std::string attend = "computed";
  std::string rope_angles = "float32";
  std::string frequency_split = "auto";
  std::optional<std::string> weight_type;
};

// --cache-type, --latent-bits.
void AddCacheFormat(CLI::App& app, CacheOptions& options);
// Those, and --fuse-values, --attend, --rope-angles, --frequency-split, --weight-type.
void AddCache(CLI::App& app, CacheOptions& options);
CacheFormat MakeCacheFormat(const CacheOptions& options);
// The same for commands that compare models: --latent-bits is for those that have latents.
CacheFormat MakeCacheFormat(const CacheOptions& options, const Model& model);
TransformerOptions MakeTransformerOptions(const CacheOptions& options);

// Owns the pool that the Exec refers to.
class Session {
 public:
  explicit Session(const CommonOptions& options);
  Exec exec() { return {.pool = pool_, .device = device_, .deterministic = deterministic_}; }

 private:
  ThreadPool pool_;
  Device device_;
  bool deterministic_;
};

// The tokenizer of a model directory; throws Error when it has none.
std::unique_ptr<Tokenizer> RequireTokenizer(const Model& model);

// Throws Error unless `text` is UTF-8; a character may be cut off at its end. `where` names it.
void RequireUtf8(std::string_view text, std::string_view where);

// A whole text file, which must be UTF-8.
std::string ReadUtf8File(const std::filesystem::path& path, int64_t max_bytes = int64_t{4} << 30);

// Ids of a whole text file, BOS in front where the model wants one.
std::vector<TokenId> EncodeFile(const Tokenizer& tokenizer, const std::filesystem::path& path);

// Ids of the text for comparing two models; throws Error where their vocabularies or tokenizers do
// not agree on it.
std::vector<TokenId> EncodeForBoth(const Model& dense, const Model& compressed,
                                   const std::string& text);

// Whole windows of `seqlen` tokens in the ids of the text `file`; throws Error when there is none.
int64_t RequireWindowsOf(const std::string& file, std::span<const TokenId> ids, int64_t seqlen);

// Warns of sequences longer than the model was made for.
void WarnBeyondContext(const ModelConfig& config, int64_t tokens);

// The last part of a path, also when a separator follows it.
std::string DirectoryName(const std::filesystem::path& path);

// Throws Error when writing the directory `out` would destroy what is read or is not ours: it is or
// holds one of `inputs` (empty ones are ignored), or --force would replace something that is
// neither a model directory nor empty.
void CheckOutput(const std::filesystem::path& out, bool force,
                 const std::vector<std::filesystem::path>& inputs);

// Throws Error when the file `out` of `option` cannot be made or is one of `inputs`. Known before
// the long work; an empty name is fine.
void CheckOutputFile(std::string_view option, const std::filesystem::path& out,
                     const std::vector<std::filesystem::path>& inputs = {});

// Draws the plots of a long command, whose results are not lost where that fails: a warning says
// so.
void PlotOrWarn(const std::function<void()>& draw);

// The cache's effective layout: one line on stderr, and as JSON.
void AnnounceCache(const CacheLayout& layout, const Transformer& transformer);
nlohmann::ordered_json CacheJson(const CacheLayout& layout, const std::string& kernel);
nlohmann::ordered_json CacheJson(const CacheLayout& layout, const Transformer& transformer);

// Compact JSON and a line end; ill-formed UTF-8 becomes U+FFFD.
std::string JsonLine(const nlohmann::ordered_json& json);
// The same to stdout.
void PrintJson(const nlohmann::ordered_json& json);

// Sub-commands register themselves; the returned callbacks run after parsing.
void AddBench(CLI::App& app);
void AddCompress(CLI::App& app);
void AddDevices(CLI::App& app);
void AddEval(CLI::App& app);
void AddExportDense(CLI::App& app);
void AddGenerate(CLI::App& app);
void AddInspect(CLI::App& app);
void AddKl(CLI::App& app);
void AddPpl(CLI::App& app);
void AddReport(CLI::App& app);
void AddScore(CLI::App& app);

}  // namespace palu::cli
