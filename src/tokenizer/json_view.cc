#include "tokenizer/json_view.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace palu {
namespace {

using nlohmann::json;

constexpr size_t kQuoteLimit = 60;
constexpr size_t kNestingLimit = 8;

const json& Node(const void* node) {
  static const json null;
  return node == nullptr ? null : *static_cast<const json*>(node);
}

std::string Describe(const json& value) {
  if (value.is_string()) return Quoted(value.get_ref<const std::string&>());
  if (value.is_number() || value.is_boolean()) return value.dump();
  if (value.is_null()) return "nothing";
  return value.is_array() ? "an array" : "an object";
}

bool IsIntWithin(const json& value, int64_t low, int64_t high) {
  const bool fits =
      value.is_number_unsigned() ? value.get<uint64_t>() <= INT64_MAX : value.is_number_integer();
  return fits && value.get<int64_t>() >= low && value.get<int64_t>() <= high;
}

std::optional<std::pair<std::string_view, std::string_view>> ReadPair(const json& value) {
  if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string()) {
    return {{value[0].get_ref<const std::string&>(), value[1].get_ref<const std::string&>()}};
  }
  if (!value.is_string()) return std::nullopt;
  const std::string_view both = value.get_ref<const std::string&>();
  const size_t space = both.find(' ');
  if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
    return std::nullopt;
  }
  return {{both.substr(0, space), both.substr(space + 1)}};
}

}  // namespace

std::string Quoted(std::string_view text) {
  if (text.size() <= kQuoteLimit) return fmt::format("\"{}\"", text);
  size_t end = kQuoteLimit;
  while (end > 0 && (text[end] & 0xC0) == 0x80) --end;  // not within a character
  return fmt::format("\"{}...\"", text.substr(0, end));
}

bool JsonView::is_null() const { return Node(node_).is_null(); }

bool JsonView::is_string() const { return Node(node_).is_string(); }

JsonView JsonView::At(std::string_view key) const {
  const json& node = Node(node_);
  if (!node.is_object()) FailExpected("an object");
  const auto found = node.find(key);
  std::string path = path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  return {found == node.end() ? nullptr : &*found, file_, std::move(path)};
}

std::vector<JsonView> JsonView::Items() const {
  if (is_null()) return {};
  const json& node = Node(node_);
  if (!node.is_array()) FailExpected("an array");
  std::vector<JsonView> items;
  items.reserve(node.size());
  for (const json& item : node) {
    items.push_back({&item, file_, fmt::format("{}[{}]", path_, items.size())});
  }
  return items;
}

void JsonView::ForEachInt(
    int64_t low, int64_t high,
    const std::function<void(const std::string& key, int64_t value)>& visit) const {
  const json& node = Node(node_);
  if (!node.is_object()) FailExpected("an object");
  for (auto member = node.begin(); member != node.end(); ++member) {
    if (!IsIntWithin(*member, low, high)) {
      JsonView(&*member, file_, fmt::format("{}[{}]", path_, Quoted(member.key()))).Int(low, high);
    }
    visit(member.key(), member->get<int64_t>());
  }
}

void JsonView::ForEachPair(
    const std::function<void(std::string_view first, std::string_view second)>& visit) const {
  const json& node = Node(node_);
  if (!node.is_array()) FailExpected("an array");
  for (size_t i = 0; i < node.size(); ++i) {
    const auto pair = ReadPair(node[i]);
    if (!pair)
      JsonView(&node[i], file_, fmt::format("{}[{}]", path_, i)).FailExpected("two tokens");
    visit(pair->first, pair->second);
  }
}

size_t JsonView::size() const { return Node(node_).size(); }

const std::string& JsonView::String() const {
  if (!is_string()) FailExpected("a string");
  return Node(node_).get_ref<const std::string&>();
}

std::string JsonView::StringOr(std::string_view when_null) const {
  return is_null() ? std::string(when_null) : String();
}

bool JsonView::BoolOr(bool when_null) const {
  if (is_null()) return when_null;
  if (!Node(node_).is_boolean()) FailExpected("true or false");
  return Node(node_).get<bool>();
}

int64_t JsonView::Int(int64_t low, int64_t high) const {
  if (!IsIntWithin(Node(node_), low, high)) {
    FailExpected(fmt::format("an integer from {} to {}", low, high));
  }
  return Node(node_).get<int64_t>();
}

std::vector<JsonView> JsonView::Flatten(std::string_view list) const {
  std::vector<JsonView> flat;
  const auto add = [&](const auto& self, const JsonView& part, size_t depth) -> void {
    if (part.is_null()) return;
    if (depth > kNestingLimit) {
      Fail("{}: expected at most {} nested sequences, found more", where(), kNestingLimit);
    }
    if (part.At("type").StringOr("") != "Sequence") {
      flat.push_back(part);
      return;
    }
    for (const JsonView& item : part.At(list).Items()) self(self, item, depth + 1);
  };
  add(add, *this, 0);
  return flat;
}

std::string JsonView::where() const {
  return path_.empty() ? *file_ : fmt::format("{}: {}", *file_, path_);
}

void JsonView::FailExpected(std::string_view expected) const {
  Fail("{}: expected {}, found {}", where(), expected, Describe(Node(node_)));
}

JsonDocument::JsonDocument(std::string_view text, std::string_view file)
    : file_(std::make_unique<const std::string>(file)) {
  try {
    root_ = std::make_shared<const json>(json::parse(text));
  } catch (const json::exception& error) {
    Fail("{}: expected well-formed JSON, found: {}", file, SanitizeUtf8(error.what()));
  }
}

JsonView JsonDocument::root() const { return {root_.get(), file_.get(), ""}; }

}  // namespace palu
