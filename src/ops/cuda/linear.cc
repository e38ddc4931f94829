#include "ops/cuda/linear.h"

#include <algorithm>
#include <cassert>
#include <memory>

#include "base/error.h"
#include "ops/cuda/streamed_linear.h"

namespace palu::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int64_t kInvariantRows = 64;  // of a padded group

void Check(cublasStatus_t status, const char* what) {
  Require(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: {} failed: {}", what,
          cublasLtGetStatusString(status));
}

cudaDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF64:
      break;
  }
  Fail("a product on the device takes F32, F16 or BF16, found {}", Name(dtype));
}

struct Layout {
  Layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride) {
    Check(cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(cols), stride),
          "describing a matrix");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t layout = nullptr;
};

struct Operation {
  Operation() {
    Check(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  }
  ~Operation() { cublasLtMatmulDescDestroy(desc); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  template <class T>
  void Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    Check(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof(value)),
          "describing a product");
  }
  cublasLtMatmulDesc_t desc = nullptr;
};

}  // namespace

// The library is column-major: it computes yᵀ [n, m] = W [n, k] xᵀ [k, m], with W stored
// transposed.
struct LinearRunner::Plan {
  explicit Plan(const Key& key)
      : w(TypeOf(key.dtype), key.k, key.n, key.w_stride),
        x(TypeOf(key.dtype), key.k, key.m, key.x_stride),
        y(CUDA_R_32F, key.n, key.m, key.y_stride) {
    operation.Set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    operation.Set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    if (key.bias) operation.Set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  }
  Operation operation;
  Layout w, x, y;
  cublasLtMatmulAlgo_t algorithm;
};

LinearRunner::LinearRunner(bool batch_invariant) : batch_invariant_(batch_invariant) {
  Check(cublasLtCreate(&handle_), "starting the library");
  workspace_.Resize(kWorkspaceBytes);
}

LinearRunner::~LinearRunner() { cublasLtDestroy(handle_); }

const LinearRunner::Plan& LinearRunner::PlanFor(const Key& key) {
  const auto [found, made] = plans_.try_emplace(key, key);
  Plan& plan = found->second;
  if (!made) return plan;
  cublasLtMatmulPreference_t preference = nullptr;
  Check(cublasLtMatmulPreferenceCreate(&preference), "choosing a kernel");
  const auto bytes = static_cast<size_t>(kWorkspaceBytes);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                       sizeof(bytes));
  // Sums in the order that one kernel fixes: split products that meet in any order would not
  // repeat.
  const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_MASK & ~CUBLASLT_REDUCTION_SCHEME_INPLACE;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                       &reduction, sizeof(reduction));
  cublasLtMatmulHeuristicResult_t result;
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation.desc, plan.w.layout, plan.x.layout,
                                     plan.y.layout, plan.y.layout, preference, 1, &result, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    plans_.erase(found);
    Fail("cuBLASLt: no kernel for a product of {} x {} x {} in {}", key.m, key.n, key.k,
         Name(key.dtype));
  }
  plan.algorithm = result.algo;
  return plan;
}

void LinearRunner::Multiply(const DeviceMatrix& x, const DeviceMatrix& weight, const float* bias,
                            const DeviceMatrix& y, bool accumulate, float alpha,
                            cudaStream_t stream) {
  const Plan& plan = PlanFor(
      {x.rows, weight.rows, x.cols, x.stride, weight.stride, y.stride, x.dtype, bias != nullptr});
  if (bias != nullptr) {  // the descriptor is this object's own, and the call reads it at once
    Check(cublasLtMatmulDescSetAttribute(plan.operation.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                         &bias, sizeof(bias)),
          "setting the bias");
  }
  const float beta = accumulate ? 1 : 0;
  Check(cublasLtMatmul(handle_, plan.operation.desc, &alpha, weight.data, plan.w.layout, x.data,
                       plan.x.layout, &beta, y.data, plan.y.layout, y.data, plan.y.layout,
                       &plan.algorithm, workspace_.data(), static_cast<size_t>(kWorkspaceBytes),
                       stream),
        "a product");
}

void LinearRunner::Run(const DeviceMatrix& x, const DeviceMatrix& weight, const float* bias,
                       const DeviceMatrix& y, bool accumulate, cudaStream_t stream, float alpha) {
  assert(x.dtype == weight.dtype && x.cols == weight.cols && y.dtype == DType::kF32);
  assert(x.rows == y.rows && weight.rows == y.cols);
  if (x.rows == 0) return;
  if (!Streams(x) || !Streams(weight)) {
    return PlainLinear(x, weight, bias, y, accumulate, alpha, stream);
  }
  if (!batch_invariant_) return Multiply(x, weight, bias, y, accumulate, alpha, stream);
  const auto size = static_cast<int64_t>(SizeOf(x.dtype));
  padded_x_.Resize(std::max(padded_x_.size(), kInvariantRows * x.cols * size));
  padded_y_.Resize(std::max(padded_y_.size(), kInvariantRows * y.cols));
  const DeviceMatrix px{padded_x_.data(), x.dtype, kInvariantRows, x.cols, x.cols};
  const DeviceMatrix py{padded_y_.data(), DType::kF32, kInvariantRows, y.cols, y.cols};
  const auto copy = [&](const DeviceMatrix& to, const DeviceMatrix& from, int64_t rows) {
    const auto width = static_cast<int64_t>(SizeOf(from.dtype));
    palu::cuda::Check(
        cudaMemcpy2DAsync(to.data, static_cast<size_t>(to.stride * width), from.data,
                          static_cast<size_t>(from.stride * width),
                          static_cast<size_t>(from.cols * width), static_cast<size_t>(rows),
                          cudaMemcpyDeviceToDevice, stream),
        "copying rows");
  };
  for (int64_t row = 0; row < x.rows; row += kInvariantRows) {
    const int64_t rows = std::min(kInvariantRows, x.rows - row);
    copy(px, x.RowRange(row, rows), rows);
    if (accumulate) copy(py, y.RowRange(row, rows), rows);
    Multiply(px, weight, bias, py, accumulate, alpha, stream);
    copy(y.RowRange(row, rows), py, rows);
  }
}

}  // namespace palu::cuda
