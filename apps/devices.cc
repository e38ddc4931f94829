#include <fmt/format.h>

#include "common.h"
#include "tensor/device.h"

namespace palu::cli {
namespace {

void Run(bool json) {
  const ThreadPool pool;
  nlohmann::ordered_json out = {{"cpu_threads", pool.size()},
                                {"cuda_backend", HasCudaBackend()},
                                {"cuda_devices", nlohmann::ordered_json::array()}};
  if (HasCudaBackend()) {
    for (const CudaDeviceInfo& device : CudaDevices()) {
      out["cuda_devices"].push_back(
          {{"name", device.name},
           {"compute_capability", fmt::format("{}.{}", device.major, device.minor)},
           {"multiprocessors", device.multiprocessors},
           {"memory_bytes", device.memory_bytes}});
    }
  }
  if (json) return PrintJson(out);
  fmt::print("cpu: {} threads\n", pool.size());
  if (!HasCudaBackend()) fmt::print("cuda: not in this build (cmake --preset cuda)\n");
  if (HasCudaBackend() && out["cuda_devices"].empty()) fmt::print("cuda: no device\n");
  for (const auto& device : out["cuda_devices"]) {
    fmt::print("cuda: {}, compute capability {}, {} multiprocessors, {:.1f} GiB\n",
               device["name"].get<std::string>(), device["compute_capability"].get<std::string>(),
               device["multiprocessors"].get<int>(),
               static_cast<double>(device["memory_bytes"].get<int64_t>()) / (1 << 30));
  }
}

}  // namespace

void AddDevices(CLI::App& app) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("devices", "What this build can run on here");
  command->add_flag("--json", *json, "print JSON");
  command->callback([json] { Run(*json); });
}

}  // namespace palu::cli
