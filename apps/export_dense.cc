#include "format/export_dense.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "common.h"

namespace palu::cli {
namespace {

struct Options {
  CommonOptions common;
  std::string model, out, dtype = "auto";
  bool force = false;
};

void Run(const Options& options) {
  Session session(options.common);
  CheckOutput(options.out, options.force, {options.model});
  StagedDirectory staged(options.out, options.force);
  std::optional<DType> dtype;
  if (options.dtype == "f32") dtype = DType::kF32;
  if (options.dtype == "f16") dtype = DType::kF16;
  if (options.dtype == "bf16") dtype = DType::kBF16;
  ExportDense(options.model, staged.path(), dtype, session.exec().pool);
  staged.Commit();
  Info("wrote {}", options.out);
}

}  // namespace

void AddExportDense(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "export-dense", "Expand a compressed model to an ordinary dense checkpoint");
  command->add_option("MODEL", options->model, "compressed model directory")->required();
  command->add_option("OUT", options->out, "directory to create")->required();
  command->add_option("--dtype", options->dtype, "element type; auto: as stored")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16"}))
      ->capture_default_str();
  command->add_flag("--force", options->force, "replace OUT when it exists");
  AddCommon(*command, options->common, false);
  command->callback([options] { Run(*options); });
}

}  // namespace palu::cli
