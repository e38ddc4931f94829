#include "ops/embedding.h"

#include "base/error.h"
#include "ops/convert.h"

namespace palu {

void GatherRows(const TensorView& table, std::span<const int32_t> ids, MatrixView<float> out) {
  assert(out.rows == static_cast<int64_t>(ids.size()) && out.cols == table.cols());
  const size_t row_bytes = static_cast<size_t>(table.cols()) * SizeOf(table.dtype);
  for (int64_t i = 0; i < out.rows; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    Require(id >= 0 && id < table.rows(), "token {} lies outside the vocabulary of {}", id,
            table.rows());
    const auto* row =
        static_cast<const std::byte*>(table.data) + row_bytes * static_cast<size_t>(id);
    ToFloat(row, table.dtype, table.cols(), out.Row(i));
  }
}

}  // namespace palu
