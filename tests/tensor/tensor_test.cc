#include "tensor/tensor.h"

#include "testing.h"

namespace palu {
namespace {

TEST(Shape, CountsElementsAndRefusesOverflow) {
  EXPECT_EQ(NumElements({}), 1);
  EXPECT_EQ(NumElements({3, 4, 5}), 60);
  EXPECT_EQ(NumElements({3, 0}), 0);
  EXPECT_EQ(ToString({3, 4}), "[3, 4]");
  const int64_t big = int64_t{1} << 40;
  EXPECT_EQ(testing::ErrorOf([&] {
              NumElements({big, big});
            }),
            "shape [1099511627776, 1099511627776] does not fit in 63 bits");
  EXPECT_THROW(NumElements({-1}), Error);
}

TEST(TensorView, RowsKeepTheElementType) {
  OwnedTensor tensor(DType::kF16, {4, 3});
  const TensorView view = tensor.View();
  EXPECT_EQ(view.bytes(), 24);
  const TensorView rows = view.Rows(1, 2);
  EXPECT_EQ(rows.shape, (Shape{2, 3}));
  EXPECT_EQ(static_cast<const std::byte*>(rows.data) - tensor.data(), 6);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data()) % kAlignment, 0u);
}

TEST(Matrix, ShrinkingKeepsTheAllocation) {
  Matrix<float> m(10, 10);
  m.Fill(3);
  const float* data = m.data();
  m.Resize(5, 4);
  EXPECT_EQ(m.data(), data);
  EXPECT_EQ(m.View().ColRange(1, 2).stride, 4);
  EXPECT_EQ(m(4, 3), 3);
}

TEST(DType, NamesAreSafetensors) {
  for (const DType type : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    EXPECT_EQ(ParseDType(Name(type)), type);
  }
  EXPECT_FALSE(ParseDType("F8"));
}

}  // namespace
}  // namespace palu
