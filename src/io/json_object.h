// Typed fields of a JSON object with errors "FILE: field NAME: expected ..., found ...". For the
// parsers of io/ and format/; no public header includes this.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace palu {

// Parses `text`, which must be one JSON value nested at most 32 deep and without repeated keys.
// Throws Error naming `where` and the position.
nlohmann::json ParseJson(std::string_view text, std::string_view where);

// A few words for an error message: the value when it is short, else what it is.
std::string Describe(const nlohmann::json& value);

// A view: the JSON value must outlive it.
class JsonObject {
 public:
  // `prefix` is empty or the object's own field name. Throws Error unless `value` is an object.
  JsonObject(const nlohmann::json& value, std::string_view where, std::string prefix = "");

  // Null when absent or null, which mean the same in config.json.
  const nlohmann::json* Find(std::string_view key) const;
  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  // Throws Error when absent or null.
  const nlohmann::json& At(std::string_view key, std::string_view expected) const;

  int64_t Int(std::string_view key, int64_t min, int64_t max) const;
  int64_t Int(std::string_view key, int64_t min, int64_t max, int64_t fallback) const;
  double Positive(std::string_view key) const;  // finite
  double Positive(std::string_view key, double fallback) const;
  bool Bool(std::string_view key, bool fallback) const;
  std::string String(std::string_view key) const;
  std::string String(std::string_view key, std::string_view fallback) const;
  JsonObject Object(std::string_view key) const;
  // A list of integers, or with `or_single` one integer; empty when absent.
  std::vector<int64_t> Ints(std::string_view key, int64_t min, int64_t max, bool or_single) const;

  // "FILE: field NAME: expected EXPECTED, found FOUND".
  [[noreturn]] void Mismatch(std::string_view key, std::string_view expected,
                             std::string_view found) const;
  const nlohmann::json& value() const { return *value_; }

 private:
  int64_t CheckedInt(const nlohmann::json& value, std::string_view key, int64_t min,
                     int64_t max) const;

  const nlohmann::json* value_;
  std::string where_, prefix_;
};

}  // namespace palu
