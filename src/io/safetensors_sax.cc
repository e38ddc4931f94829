#include "io/safetensors_sax.h"

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace palu {
namespace {

using nlohmann::json;

constexpr size_t kMaxExtents = 16;

class HeaderReader : public nlohmann::json_sax<json> {
 public:
  HeaderReader(std::string_view where, SafetensorsHeader& header)
      : where_(where), header_(header) {}

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { return Unexpected(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return Unexpected(text); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (!list_ || value > static_cast<uint64_t>(INT64_MAX)) {
      return Unexpected(std::to_string(value));
    }
    Require(list_->size() < kMaxExtents, "{}: tensor {}: field {}: expected at most {} numbers",
            where_, name_, field_, kMaxExtents);
    list_->push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& text) override {
    if (level_ == Level::kMetadata) {
      header_.metadata[field_] = text;
    } else if (level_ == Level::kEntry && field_ == "dtype" && !list_) {
      header_.entries.back().dtype = text;
    } else {
      return Unexpected("a string");
    }
    return true;
  }

  bool start_object(size_t) override {
    if (level_ == Level::kOutside) {
      level_ = Level::kTop;
    } else if (level_ == Level::kTop && name_ == "__metadata__") {
      level_ = Level::kMetadata;
    } else if (level_ == Level::kTop) {
      level_ = Level::kEntry;
      header_.entries.emplace_back().name = name_;
      offsets_.clear();
    } else {
      return Unexpected("an object");
    }
    fields_.clear();
    field_.clear();
    return true;
  }

  bool key(string_t& key) override {
    if (level_ == Level::kTop) {
      Require(names_.insert(key).second, "{}: tensor {} appears twice", where_, key);
      name_ = key;
      return true;
    }
    Require(fields_.insert(key).second, "{}: tensor {}: field {} appears twice", where_, name_,
            key);
    Require(level_ == Level::kMetadata || key == "dtype" || key == "shape" || key == "data_offsets",
            "{}: tensor {}: expected dtype, shape and data_offsets, found field {}", where_, name_,
            key);
    field_ = key;
    return true;
  }

  bool end_object() override {
    if (level_ == Level::kEntry) FinishEntry();
    level_ = level_ == Level::kTop ? Level::kDone : Level::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (level_ != Level::kEntry || list_ || field_ == "dtype") return Unexpected("a list");
    list_ = field_ == "shape" ? &header_.entries.back().shape : &offsets_;
    return true;
  }

  bool end_array() override {
    list_ = nullptr;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    Fail("{}: header is not valid JSON at byte {}", where_, position);
  }

 private:
  enum class Level { kOutside, kTop, kMetadata, kEntry, kDone };

  void FinishEntry() {
    Require(fields_.size() == 3, "{}: tensor {}: expected dtype, shape and data_offsets", where_,
            name_);
    Require(offsets_.size() == 2, "{}: tensor {}: field data_offsets: expected 2 numbers, found {}",
            where_, name_, offsets_.size());
    header_.entries.back().begin = offsets_[0];
    header_.entries.back().end = offsets_[1];
  }

  [[noreturn]] bool Unexpected(std::string_view found) const {
    switch (level_) {
      case Level::kOutside:
      case Level::kDone:
        Fail("{}: header: expected an object, found {}", where_, found);
      case Level::kTop:
        Fail("{}: tensor {}: expected an object, found {}", where_, name_, found);
      case Level::kMetadata:
        Fail("{}: metadata field {}: expected a string, found {}", where_, field_, found);
      case Level::kEntry:
        break;
    }
    const std::string_view expected = field_ == "dtype"  ? "a string"
                                      : list_ != nullptr ? "an integer from 0 to 2^63-1"
                                                         : "a list of integers";
    Fail("{}: tensor {}: field {}: expected {}, found {}", where_, name_, field_, expected, found);
  }

  std::string_view where_;
  SafetensorsHeader& header_;
  Level level_ = Level::kOutside;
  std::string name_, field_;
  std::set<std::string> names_, fields_;
  std::vector<int64_t> offsets_;
  std::vector<int64_t>* list_ = nullptr;  // the list being read
};

}  // namespace

void ReadSafetensorsJson(std::string_view text, std::string_view where, SafetensorsHeader& header) {
  HeaderReader reader(where, header);
  json::sax_parse(text, &reader);
}

}  // namespace palu
