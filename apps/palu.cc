// The command line: parsing, one place for errors, and Ctrl-C.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "base/cancel.h"
#include "base/error.h"
#include "common.h"

int main(int argc, char** argv) {
  using namespace palu;
  CLI::App app("Makes the KV cache of language models several times smaller by low-rank projection, "
               "and runs them from it.");
  app.name("palu");
  app.require_subcommand(1);
  app.set_version_flag("--version", PALU_VERSION);
  cli::AddCompress(app);
  cli::AddPpl(app);
  cli::AddScore(app);
  cli::AddGenerate(app);
  cli::AddInspect(app);
  cli::AddExportDense(app);
  cli::AddBench(app);
  InstallCancelHandlers();
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 1;
  } catch (const Cancelled&) {
    fmt::print(stderr, "palu: interrupted\n");
    return 130;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "palu: out of memory\n");
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "palu: {}\n", error.what());
    return 1;
  }
}
