#include "ops/linear.h"

#include "base/error.h"
#include "linalg/gemm.h"
#include "ops/convert.h"
#include "ops/cpu/kernels.h"
#include "ops/parallel.h"
#include "ops/vector.h"

namespace palu {
namespace {

// Up to so many rows of x our kernel is as fast as the library's packed GEMM or faster, and it
// reads the weights once and converts them in registers (bench/linear_bench.cc).
constexpr int64_t kStreamRows = 64;

// Weight rows per GEMM tile: enough to amortise packing x, few enough to give every thread some.
constexpr int64_t kTileRows = 256;
constexpr int64_t kMinTileRows = 64;

// How our kernel blocks many rows: a panel of weights that stays in the thread's share of L3 meets
// blocks of x that stay in L2.
constexpr int64_t kPanelBytes = int64_t{2} << 20;
constexpr int64_t kBlockBytes = int64_t{256} << 10;

// The panels of our kernel; ranges begin on one, so that no thread computes a padded panel midway.
constexpr int64_t kRowStep = 8;

void Check(MatrixView<const float> x, const TensorView& weight, MatrixView<float> y,
           const LinearOptions& options) {
  Require(weight.shape.size() == 2 && weight.cols() == x.cols && weight.rows() == y.cols,
          "product of [{}, {}] with weight {} into [{}, {}]", x.rows, x.cols,
          ToString(weight.shape), y.rows, y.cols);
  Require(weight.dtype != DType::kF64, "weight {} has dtype F64; expected F32, F16 or BF16",
          ToString(weight.shape));
  Require(!options.bias || options.bias->size() == y.cols, "bias {} for {} outputs",
          options.bias ? ToString(options.bias->shape) : "", y.cols);
  assert(x.rows == y.rows);
}

StoredRows RowsOf(const TensorView& weight) { return {weight.data, weight.dtype, weight.cols()}; }

// Grown once per thread and kept: the tiles of all layers have about the same size.
float* Scratch(int64_t size) {
  thread_local AlignedBuffer<float> buffer;
  buffer.Resize(size);
  return buffer.data();
}

void AddBias(const TensorView& bias, int64_t begin, MatrixView<float> y) {
  constexpr int64_t kChunk = 256;
  float values[kChunk];
  for (int64_t j = 0; j < y.cols; j += kChunk) {
    const int64_t n = std::min(kChunk, y.cols - j);
    const auto* from = static_cast<const std::byte*>(bias.data) +
                       static_cast<size_t>(begin + j) * SizeOf(bias.dtype);
    ToFloat(from, bias.dtype, n, values);
    for (int64_t i = 0; i < y.rows; ++i) Axpy(1.0f, values, y.Row(i) + j, n);
  }
}

// How many rows of `row_bytes` fit: whole steps of our kernel, at least one.
int64_t RowsIn(int64_t bytes, int64_t row_bytes) {
  return std::max(kRowStep, bytes / std::max<int64_t>(row_bytes, 1) / kRowStep * kRowStep);
}

// Our kernel, all rows of x.
void Stream(MatrixView<const float> x, const TensorView& weight, MatrixView<float> y,
            cpu::Write write) {
  const int64_t weight_row = x.cols * static_cast<int64_t>(SizeOf(weight.dtype));
  const int64_t panel = RowsIn(kPanelBytes, weight_row);
  const int64_t block = RowsIn(kBlockBytes, x.cols * static_cast<int64_t>(sizeof(float)));
  for (int64_t j = 0; j < y.cols; j += panel) {
    const int64_t n = std::min(panel, y.cols - j);
    const StoredRows rows = RowsOf(weight.Rows(j, n));
    for (int64_t i = 0; i < x.rows; i += block) {
      const int64_t m = std::min(block, x.rows - i);
      cpu::DotRows(x.RowRange(i, m), rows, y.RowRange(i, m).ColRange(j, n), write);
    }
  }
}

// The library's GEMM on a tile of weights, converted to float unless they are.
void MultiplyTile(MatrixView<const float> x, const TensorView& weight, MatrixView<float> y,
                  cpu::Write write) {
  MatrixView<const float> w;
  if (weight.dtype == DType::kF32) {
    w = {weight.As<float>(), weight.rows(), weight.cols()};
  } else {
    float* converted = Scratch(weight.size());
    ToFloat(weight, converted);
    w = {converted, weight.rows(), weight.cols()};
  }
  Gemm(Trans::kNo, Trans::kYes, 1.0f, x, w, write == cpu::Write::kAdd ? 1.0f : 0.0f, y);
}

}  // namespace

void Linear(const Exec& exec, MatrixView<const float> x, const TensorView& weight,
            MatrixView<float> y, const LinearOptions& options) {
  Check(x, weight, y, options);
  if (x.rows == 0 || y.cols == 0) return;
  const auto write = options.accumulate ? cpu::Write::kAdd : cpu::Write::kReplace;
  const bool stream = exec.deterministic || x.rows <= kStreamRows;

  // The one choice of strategy. Steps are what ForRanges hands out.
  const int64_t per_thread = (y.cols + exec.pool.size() - 1) / exec.pool.size();
  const int64_t step = stream ? kRowStep : std::clamp(per_thread, kMinTileRows, kTileRows);
  const int64_t steps = (y.cols + step - 1) / step;
  ForRanges(exec, steps, step * x.rows * x.cols, [&](int64_t begin, int64_t end) {
    const auto run = [&](int64_t from, int64_t to) {
      const int64_t j = from * step;
      const int64_t n = std::min(to * step, y.cols) - j;
      const MatrixView<float> out = y.ColRange(j, n);
      (stream ? Stream : MultiplyTile)(x, weight.Rows(j, n), out, write);
      if (options.bias) AddBias(*options.bias, j, out);
    };
    if (stream) return run(begin, end);
    for (int64_t tile = begin; tile < end; ++tile) run(tile, tile + 1);
  });
}

void LinearSerial(MatrixView<const float> x, const TensorView& weight, MatrixView<float> y,
                  const LinearOptions& options) {
  Check(x, weight, y, options);
  if (x.rows == 0 || y.cols == 0) return;
  Stream(x, weight, y, options.accumulate ? cpu::Write::kAdd : cpu::Write::kReplace);
  if (options.bias) AddBias(*options.bias, 0, y);
}

}  // namespace palu
