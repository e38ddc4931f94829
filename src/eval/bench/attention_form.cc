#include "eval/bench/attention_form.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "ops/frequency_split.h"

namespace palu {
namespace {

constexpr std::array kBits = {2, 3, 4, 8, 16};
constexpr int64_t kRankMultiple = 32;

// A whole number in [low, high] that takes all of `text`.
std::optional<int> Number(std::string_view text, int low, int high) {
  int value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  if (value < low || value > high) return std::nullopt;
  return value;
}

// nullopt for anything that is not BITS@PERCENT or BITS@PERCENT/PERCENT, with or without r before.
std::optional<AttentionForm> ParseLatent(std::string_view name) {
  const bool rotary = name.starts_with('r');
  const std::string_view text = name.substr(rotary ? 1 : 0);
  const size_t at = text.find('@');
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view shares = text.substr(at + 1);
  const size_t slash = std::min(shares.find('/'), shares.size());
  const auto bits = Number(text.substr(0, at), 2, 16);
  const auto k = Number(shares.substr(0, slash), 1, 99);
  const auto v = slash == shares.size() ? k : Number(shares.substr(slash + 1), 1, 99);
  if (!bits || !k || !v || std::find(kBits.begin(), kBits.end(), *bits) == kBits.end()) {
    return std::nullopt;
  }
  return AttentionForm{std::string(name), true, rotary, *bits, *k / 100.0, *v / 100.0};
}

// The same rank for every group; none, which is dense, where that is the whole width.
ProjectionRanks Ranks(const ModelConfig& config, double share, int64_t group_size) {
  const int64_t width = group_size * config.head_dim;
  const int64_t multiples = std::llround(share * static_cast<double>(width) / kRankMultiple);
  const int64_t rank = kRankMultiple * std::max<int64_t>(1, multiples);
  if (rank >= width) return {};
  return {std::vector<int64_t>(static_cast<size_t>(config.num_kv_heads / group_size), rank)};
}

}  // namespace

std::vector<AttentionForm> ParseForms(std::string_view text) {
  std::vector<AttentionForm> forms = {{.name = "dense"}};
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view item = text.substr(begin, end - begin);
    begin = end + 1;
    if (item == "dense") continue;
    const auto form = ParseLatent(item);
    Require(form.has_value(),
            "--forms: expected dense or BITS@PERCENT or BITS@KEYS/VALUES, BITS one of 2, 3, 4, 8, "
            "16, after r for the rotary basis, percentages from 1 to 99, found '{}'",
            item);
    forms.push_back(*form);
  }
  return forms;
}

ModelConfig OneLayer(const ModelConfig& model, const AttentionForm& form, int64_t group_size) {
  ModelConfig config = model;
  config.num_layers = 1;
  config.compression.reset();
  if (!form.latent) return config;
  Require(config.num_kv_heads % group_size == 0,
          "--group-size: expected a divisor of the model's {} KV heads, found {}",
          config.num_kv_heads, group_size);
  KvCompression compression;
  compression.group_size = group_size;
  compression.quantization.bits = form.bits;
  if (form.rotary) compression.rotary_pairs = FastPairs(config.heads_per_kv(), config.head_dim);
  compression.layers = {{Ranks(config, form.k, group_size), Ranks(config, form.v, group_size)}};
  config.compression = compression;
  return config;
}

CacheLayout LayoutOf(const ModelConfig& one_layer, const AttentionForm& form) {
  CacheFormat format(DType::kF16);
  if (form.latent) format.latent_bits = form.bits;
  return {one_layer, format};
}

}  // namespace palu
