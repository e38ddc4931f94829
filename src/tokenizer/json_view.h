// Reading a JSON file that may be malformed or hostile: every access states what it expects, and a
// mismatch is one Error sentence with the file, the field's path, and what was found.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace palu {

// `text` in quotes for an error message, cut short when long.
std::string Quoted(std::string_view text);

// One value inside a JsonDocument, which must outlive it.
class JsonView {
 public:
  bool is_null() const;  // also when the field is missing
  bool is_string() const;

  // Member of an object; a null view where there is none. Fails on anything but an object.
  JsonView At(std::string_view key) const;
  // Elements of an array; none where the view is null.
  std::vector<JsonView> Items() const;
  // All members of an object of integers, and all elements of an array of pairs, which are "a b" or
  // ["a", "b"]: in bulk, as vocabularies have hundreds of thousands of them.
  void ForEachInt(int64_t low, int64_t high,
                  const std::function<void(const std::string& key, int64_t value)>& visit) const;
  void ForEachPair(
      const std::function<void(std::string_view first, std::string_view second)>& visit) const;
  size_t size() const;

  const std::string& String() const;
  std::string StringOr(std::string_view when_null) const;
  bool BoolOr(bool when_null) const;
  int64_t Int(int64_t low, int64_t high) const;

  // The parts of a component that may be {"type": "Sequence", <list>: [...]}, nested sequences
  // unfolded; the component itself when it is no sequence; none when null.
  std::vector<JsonView> Flatten(std::string_view list) const;

  // "<file>: <path>", for messages.
  std::string where() const;
  // Throws "<file>: <path>: expected <expected>, found <this value>".
  [[noreturn]] void FailExpected(std::string_view expected) const;

 private:
  friend class JsonDocument;
  JsonView(const void* node, const std::string* file, std::string path)
      : node_(node), file_(file), path_(std::move(path)) {}

  const void* node_;  // an nlohmann::json, a type which only json_view.cc names; null: missing
  const std::string* file_;
  std::string path_;
};

class JsonDocument {
 public:
  // Throws Error naming `file` unless `text` is well-formed JSON.
  JsonDocument(std::string_view text, std::string_view file);
  JsonView root() const;

 private:
  std::unique_ptr<const std::string> file_;
  std::shared_ptr<const void> root_;
};

}  // namespace palu
