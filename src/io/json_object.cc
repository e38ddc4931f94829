#include "io/json_object.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace palu {

using nlohmann::json;

namespace {

constexpr int kMaxDepth = 32;
constexpr size_t kShort = 60;

}  // namespace

json ParseJson(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> keys;  // per depth, of the object being read
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    Require(depth <= kMaxDepth, "{}: JSON nested deeper than {}", where, kMaxDepth);
    const auto level = static_cast<size_t>(depth);
    if (event == json::parse_event_t::object_start) {
      if (keys.size() < level + 2) keys.resize(level + 2);
      keys[level + 1].clear();
    } else if (event == json::parse_event_t::key) {
      Require(keys[level].insert(value.get<std::string>()).second, "{}: key {} appears twice",
              where, Describe(value));
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    const std::string_view what = error.what();  // "[json.exception.NAME.ID] sentence"
    const size_t end = what.find("] ");
    Fail("{}: not valid JSON: {}", where, end == what.npos ? what : what.substr(end + 2));
  }
}

std::string Describe(const json& value) {
  if (value.is_null()) return "null";
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= kShort) return text;
  return fmt::format("{} of {} characters", value.type_name(), text.size());
}

JsonObject::JsonObject(const json& value, std::string_view where, std::string prefix)
    : value_(&value), where_(where), prefix_(std::move(prefix)) {
  if (value.is_object()) return;
  if (prefix_.empty()) Fail("{}: expected a JSON object, found {}", where, Describe(value));
  Fail("{}: field {}: expected an object, found {}", where, prefix_, Describe(value));
}

const json* JsonObject::Find(std::string_view key) const {
  const auto found = value_->find(std::string(key));
  return found == value_->end() || found->is_null() ? nullptr : &*found;
}

const json& JsonObject::At(std::string_view key, std::string_view expected) const {
  if (const json* value = Find(key)) return *value;
  Mismatch(key, expected, "nothing");
}

void JsonObject::Mismatch(std::string_view key, std::string_view expected,
                          std::string_view found) const {
  Fail("{}: field {}{}{}: expected {}, found {}", where_, prefix_, prefix_.empty() ? "" : ".", key,
       expected, found);
}

int64_t JsonObject::CheckedInt(const json& value, std::string_view key, int64_t min,
                               int64_t max) const {
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                        : value.is_number_integer();
  if (fits) {
    const auto number = value.get<int64_t>();
    if (min <= number && number <= max) return number;
  }
  Mismatch(key, fmt::format("an integer from {} to {}", min, max), Describe(value));
}

int64_t JsonObject::Int(std::string_view key, int64_t min, int64_t max) const {
  return CheckedInt(At(key, fmt::format("an integer from {} to {}", min, max)), key, min, max);
}

int64_t JsonObject::Int(std::string_view key, int64_t min, int64_t max, int64_t fallback) const {
  return Has(key) ? Int(key, min, max) : fallback;
}

double JsonObject::Positive(std::string_view key) const {
  const json& value = At(key, "a positive number");
  const double number = value.is_number() ? value.get<double>() : 0.0;
  if (!(number > 0) || !std::isfinite(number)) Mismatch(key, "a positive number", Describe(value));
  return number;
}

double JsonObject::Positive(std::string_view key, double fallback) const {
  return Has(key) ? Positive(key) : fallback;
}

bool JsonObject::Bool(std::string_view key, bool fallback) const {
  const json* value = Find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) Mismatch(key, "true or false", Describe(*value));
  return value->get<bool>();
}

std::string JsonObject::String(std::string_view key) const {
  const json& value = At(key, "a string");
  if (!value.is_string()) Mismatch(key, "a string", Describe(value));
  return value.get<std::string>();
}

std::string JsonObject::String(std::string_view key, std::string_view fallback) const {
  return Has(key) ? String(key) : std::string(fallback);
}

JsonObject JsonObject::Object(std::string_view key) const {
  return JsonObject(At(key, "an object"), where_,
                    prefix_.empty() ? std::string(key) : fmt::format("{}.{}", prefix_, key));
}

std::vector<int64_t> JsonObject::Ints(std::string_view key, int64_t min, int64_t max,
                                      bool or_single) const {
  const json* value = Find(key);
  if (!value) return {};
  if (or_single && value->is_number()) return {CheckedInt(*value, key, min, max)};
  if (!value->is_array()) {
    Mismatch(key, or_single ? "an integer or a list of integers" : "a list of integers",
             Describe(*value));
  }
  std::vector<int64_t> numbers;
  for (const json& item : *value) numbers.push_back(CheckedInt(item, key, min, max));
  return numbers;
}

}  // namespace palu
