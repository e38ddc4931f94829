// The vocabularies of tests/data/tokenizers, and what the reference libraries make of 353 texts.
#pragma once

#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "testing.h"
#include "tokenizer/hf_tokenizer.h"
#include "tokenizer/sentencepiece_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace palu::testing {

inline std::string Unxz(const std::string& relative) {
  const std::string command = "xz -dc '" + Repo(relative).string() + "'";
  std::FILE* pipe = popen(command.c_str(), "r");
  std::string text;
  std::array<char, 1 << 16> buffer;
  for (size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    text.append(buffer.data(), n);
  }
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

// One of llama3, qwen2, gpt2, phi3, llama2; loaded once and kept.
inline const Tokenizer& GoldenTokenizer(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
  auto& tokenizer = loaded[name];
  if (tokenizer == nullptr) {
    const std::string base = "tests/data/tokenizers/" + name;
    tokenizer = name == "llama2"
                    ? ParseSentencePiece(ReadAll(Repo(base + ".tokenizer.model")), name)
                    : ParseHfTokenizer(Unxz(base + ".json.xz"), name);
  }
  return *tokenizer;
}

inline const nlohmann::json& Golden() {
  static const auto golden = nlohmann::json::parse(Unxz("tests/data/tokenizers/golden.json.xz"));
  return golden;
}

}  // namespace palu::testing
