#include "tensor/tensor.h"

#include <fmt/ranges.h>

#include "base/error.h"

namespace palu {

std::string ToString(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

int64_t NumElements(const Shape& shape) {
  int64_t product = 1;
  for (int64_t extent : shape) {
    Require(extent >= 0 && !__builtin_mul_overflow(product, extent, &product),
            "shape {} does not fit in 63 bits", ToString(shape));
  }
  return product;
}

int64_t TensorView::size() const { return NumElements(shape); }

TensorView TensorView::Rows(int64_t begin, int64_t count) const {
  assert(begin >= 0 && count >= 0 && begin + count <= rows());
  TensorView view = *this;
  const int64_t row_bytes = rows() == 0 ? 0 : bytes() / rows();
  view.data = static_cast<const std::byte*>(data) + begin * row_bytes;
  view.shape[0] = count;
  return view;
}

OwnedTensor::OwnedTensor(DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)) {
  bytes_.Resize(NumElements(shape_) * static_cast<int64_t>(SizeOf(dtype)));
}

}  // namespace palu
