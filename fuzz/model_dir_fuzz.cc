// A model directory. The input is four files, one after the other, separated by the byte 0xFF
// (which no JSON text contains): config.json, model.safetensors.index.json, a.safetensors,
// b.safetensors. An empty index stands for none, and then the third file is model.safetensors.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/safetensors.h"
#include "model/hf_config.h"
#include "model/tensor_names.h"

namespace {

namespace fs = std::filesystem;

volatile std::byte g_sink{};

class Directory {
 public:
  Directory() {
    const fs::path memory = "/dev/shm";
    const fs::path base = fs::is_directory(memory) ? memory : fs::temp_directory_path();
    path_ = base / ("palu_fuzz_" + std::to_string(::getpid()));
    fs::create_directories(path_);
  }
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  void Write(const char* name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  }
  void Remove(const char* name) const { fs::remove(path_ / name); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// The text up to the next separator, which is dropped with it.
std::string_view Take(std::string_view& rest) {
  const size_t end = rest.find('\xFF');
  const std::string_view piece = rest.substr(0, end);
  rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
  return piece;
}

void ReadEverything(const fs::path& directory) {
  const palu::ModelConfig config = palu::LoadConfig(directory);
  const palu::TensorStore store = palu::TensorStore::OpenDirectory(directory);
  for (const auto& [name, tensor] : store.stored()) {  // every mapped byte must be there
    if (!tensor.bytes.empty()) g_sink = tensor.bytes.back();
  }
  const int64_t hidden = config.hidden_size;
  store.Get(std::string(palu::names::kFinalNorm), {hidden});
  store.Get(palu::names::Weight(palu::names::KProj(0)), {config.kv_size(), hidden});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  directory.Write("config.json", Take(rest));
  const std::string_view index = Take(rest);
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    directory.Remove(name);
  }
  if (!index.empty()) directory.Write("model.safetensors.index.json", index);
  directory.Write(index.empty() ? "model.safetensors" : "a.safetensors", Take(rest));
  directory.Write("b.safetensors", rest);
  try {
    ReadEverything(directory.path());
  } catch (const palu::Error&) {
  }
  return 0;
}
