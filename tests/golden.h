// Golden values from the transformers library, and short cuts to score with our own model.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "eval/score.h"
#include "runtime/engine.h"
#include "testing.h"

namespace palu::testing {

inline nlohmann::json Golden(const std::string& name) {
  return nlohmann::json::parse(ReadAll(Repo("tests/data/golden/" + name)));
}

inline std::vector<TokenId> Ids(const nlohmann::json& json) {
  return json.get<std::vector<TokenId>>();
}

// Greedy continuation of `count` tokens that does not stop at end of text.
inline std::vector<TokenId> Greedy(const Model& model, const std::vector<TokenId>& prompt,
                                   int64_t count, const EngineOptions& options = {}) {
  ThreadPool pool(2);
  Engine engine(model, {.pool = pool}, options);
  GenerationRequest request;
  request.prompt = prompt;
  request.max_tokens = count;
  const RequestId id = engine.Submit(request);
  engine.Run();
  return engine.result(id).tokens;
}

}  // namespace palu::testing
