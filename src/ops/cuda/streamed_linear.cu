#include "ops/cuda/streamed_linear.h"

#include <algorithm>
#include <cassert>

#include "ops/cuda/element.cuh"
#include "ops/cuda/stream_arguments.h"

namespace palu::cuda {

int64_t RowsBeside(int stages, int64_t k) {
  constexpr int64_t kOther = 1024;  // what the kernel takes besides
  int device = 0, bytes = 0;
  Check(cudaGetDevice(&device), "asking for the device");
  Check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "reading device properties");
  const int64_t row = PaddedColumns(k) * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>((bytes - stages * kStageBytes - kOther) / row, 0, kMaxStreamedRows);
}

int64_t MaxStreamedRows(int64_t k) {
  return std::max(RowsBeside(kStages, k), std::min<int64_t>(RowsBeside(kFewStages, k), 1));
}

bool Streams(const DeviceMatrix& weight) {
  const auto size = static_cast<int64_t>(SizeOf(weight.dtype));
  return reinterpret_cast<uintptr_t>(weight.data) % 16 == 0 && weight.cols * size % 16 == 0 &&
         weight.stride * size % 16 == 0;
}

void StreamedLinear(const DeviceMatrix& x, const RowNorm& norm, const DeviceMatrix& weight,
                    const float* bias, StreamedOutput output, const DeviceMatrix& y,
                    cudaStream_t stream) {
  const bool gated = output == StreamedOutput::kSwiGlu;
  assert(x.dtype == DType::kF32 && y.dtype == DType::kF32 && x.cols == weight.cols);
  assert(x.rows == y.rows && x.rows <= MaxStreamedRows(x.cols) && Streams(weight));
  assert(x.stride % 4 == 0 && (norm.weight != nullptr || !gated));
  assert(y.cols == (gated ? weight.rows / 2 : weight.rows));
  if (x.rows == 0) return;
  StreamArguments a;
  a.x = static_cast<const float*>(x.data);
  a.x_stride = x.stride;
  a.norm = norm;
  a.weight = weight.data;
  a.weight_stride = weight.stride;
  a.bias = bias;
  a.y = static_cast<float*>(y.data);
  a.y_stride = y.stride;
  a.units = static_cast<int>(y.cols);
  a.up_offset = gated ? a.units : 0;
  a.k = static_cast<int>(x.cols);
  a.accumulate = output == StreamedOutput::kAdd;
  WithType(weight.dtype,
           [&](auto tag) { LaunchStreamOfType<typename decltype(tag)::Type>(x.rows, a, stream); });
}

}  // namespace palu::cuda
