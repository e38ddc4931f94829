// Element types that weights, caches and files may have.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "base/half.h"

namespace palu {

enum class DType { kF64, kF32, kF16, kBF16 };

constexpr size_t SizeOf(DType type) {
  switch (type) {
    case DType::kF64:
      return 8;
    case DType::kF32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
  }
  return 0;
}

// The safetensors spelling: "F64", "F32", "F16", "BF16".
constexpr std::string_view Name(DType type) {
  switch (type) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
  }
  return "?";
}

constexpr std::optional<DType> ParseDType(std::string_view name) {
  for (DType type : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    if (name == Name(type)) return type;
  }
  return std::nullopt;
}

template <class T>
constexpr DType DTypeOf();
template <>
constexpr DType DTypeOf<double>() {
  return DType::kF64;
}
template <>
constexpr DType DTypeOf<float>() {
  return DType::kF32;
}
template <>
constexpr DType DTypeOf<Half>() {
  return DType::kF16;
}
template <>
constexpr DType DTypeOf<BFloat16>() {
  return DType::kBF16;
}

}  // namespace palu
