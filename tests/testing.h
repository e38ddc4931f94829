// Shared by all tests: where fixtures lie, and temporary directories.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "base/error.h"

namespace palu::testing {

// A path inside the repository.
inline std::filesystem::path Repo(const std::string& relative) {
  return std::filesystem::path(PALU_SOURCE_DIR) / relative;
}

// A fixture that lies beside the repository (too large for it); empty when absent, and the test
// then says that it skips.
inline std::filesystem::path Shared(const std::string& relative) {
  const auto path = std::filesystem::path(PALU_SOURCE_DIR).parent_path() / "shared" / relative;
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

inline std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}

// Removed with everything in it when the test ends.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "palu_test_XXXXXX").string();
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// The message of the Error that `action` throws; a test failure when it throws none.
template <class F>
std::string ErrorOf(F&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected palu::Error";
  return "";
}

}  // namespace palu::testing

#define PALU_SKIP_WITHOUT(path) \
  if ((path).empty()) GTEST_SKIP() << "fixture absent: " #path
