#include "ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/dot_rows.cc"
#include "ops/cpu/targets.h"

#include "hwy/foreach_target.h"

#include "ops/cpu/dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace palu::HWY_NAMESPACE {
namespace {

// Accumulators in registers: 16 of AVX-512's 32, 8 of the 16 that others have.
constexpr int kMaxX = kLanes >= 16 ? 4 : 2;

template <int kX, int kRows, class T>
HWY_INLINE void Block(MatrixView<const float> x, int64_t i, const T* const* rows, int64_t ahead,
                      int64_t j, int64_t count, cpu::Write write, MatrixView<float> y) {
  float out[kX * kRows];
  DotBlock<kX, kRows>(x.Row(i), x.stride, rows, x.cols, ahead, out);
  for (int p = 0; p < kX; ++p) {
    float* to = y.Row(i + p) + j;
    const float* from = out + p * kRows;
    if (write == cpu::Write::kAdd) {
      for (int64_t q = 0; q < count; ++q) to[q] += from[q];
    } else {
      for (int64_t q = 0; q < count; ++q) to[q] = from[q];
    }
  }
}

template <int kRows, class T>
HWY_INLINE void Panel(MatrixView<const float> x, const T* data, int64_t stride, int64_t j,
                      cpu::Write write, MatrixView<float> y) {
  // Past the last row the block repeats it, and drops the result.
  const int64_t count = HWY_MIN(int64_t{kRows}, y.cols - j);
  const T* rows[kRows];
  for (int64_t q = 0; q < kRows; ++q) rows[q] = data + (j + HWY_MIN(q, count - 1)) * stride;

  const int64_t ahead = kRows * stride;

  int64_t i = 0;
  if constexpr (kRows == 4) {
    for (; i + kMaxX <= x.rows; i += kMaxX) Block<kMaxX, 4>(x, i, rows, ahead, j, count, write, y);
    if constexpr (kMaxX > 2) {
      for (; i + 2 <= x.rows; i += 2) Block<2, 4>(x, i, rows, ahead, j, count, write, y);
    }
  }
  for (; i < x.rows; ++i) Block<1, kRows>(x, i, rows, ahead, j, count, write, y);
}

template <class T>
void DotRowsOf(MatrixView<const float> x, const StoredRows& rows, MatrixView<float> y,
               cpu::Write write) {
  const T* data = static_cast<const T*>(rows.data);
  // A single query needs eight independent sums to hide the latency of the multiply-add.
  const int64_t panel = x.rows == 1 ? 8 : 4;
  for (int64_t j = 0; j < y.cols; j += panel) {
    if (panel == 8) {
      Panel<8>(x, data, rows.stride, j, write, y);
    } else {
      Panel<4>(x, data, rows.stride, j, write, y);
    }
  }
}

void DotRowsKernel(MatrixView<const float> x, const StoredRows& rows, MatrixView<float> y,
                   cpu::Write write) {
  switch (rows.dtype) {
    case DType::kF32:
      return DotRowsOf<float>(x, rows, y, write);
    case DType::kF16:
      return DotRowsOf<Half>(x, rows, y, write);
    case DType::kBF16:
      return DotRowsOf<BFloat16>(x, rows, y, write);
    case DType::kF64:
      break;
  }
  HWY_ABORT("dot product with rows of F64");
}

}  // namespace
}  // namespace palu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace palu {
HWY_EXPORT(DotRowsKernel);

void cpu::DotRows(MatrixView<const float> x, const StoredRows& rows, MatrixView<float> y,
                  Write write) {
  assert(x.rows == y.rows);
  HWY_DYNAMIC_DISPATCH(DotRowsKernel)(x, rows, y, write);
}

void DotRows(MatrixView<const float> q, const StoredRows& rows, MatrixView<float> scores) {
  cpu::DotRows(q, rows, scores, cpu::Write::kReplace);
}

}  // namespace palu
#endif
