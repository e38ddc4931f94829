#include "runtime/fused_values.h"

#include "linalg/gemm.h"
#include "ops/convert.h"

namespace palu {
namespace {

int64_t FusedWidth(const ModelConfig& config, const ProjectionWeights& v) {
  int64_t width = 0;
  const int64_t heads_per_group = config.num_heads / static_cast<int64_t>(v.up.size());
  for (const TensorView& up : v.up) width += heads_per_group * up.cols();
  return width;
}

DType FusedType(const LayerWeights& layer) {
  return layer.o.dtype == DType::kF32 ? DType::kF32 : DType::kF16;
}

Matrix<float> AsFloat(const TensorView& view) {
  Matrix<float> out(view.rows(), view.cols());
  ToFloat(view, out.data());
  return out;
}

}  // namespace

int64_t UnfusedOutputBytes(const ModelConfig&, const LayerWeights& layer) {
  int64_t bytes = layer.o.bytes();
  for (const TensorView& up : layer.v.up) bytes += up.bytes();
  return bytes;
}

int64_t FusedOutputBytes(const ModelConfig& config, const LayerWeights& layer) {
  return config.hidden_size * FusedWidth(config, layer.v) *
         static_cast<int64_t>(SizeOf(FusedType(layer)));
}

bool ShouldFuse(const ModelConfig& config, const LayerWeights& layer, ValueFusion choice) {
  if (!layer.v.factored() || choice == ValueFusion::kOff) return false;
  return choice == ValueFusion::kOn ||
         FusedOutputBytes(config, layer) < UnfusedOutputBytes(config, layer);
}

FusedOutput FuseOutput(const ModelConfig& config, const LayerWeights& layer) {
  const int64_t d = config.head_dim;
  const int64_t groups = static_cast<int64_t>(layer.v.up.size());
  const int64_t heads_per_group = config.num_heads / groups;
  const Matrix<float> o = AsFloat(layer.o);  // [hidden, n_q*d]
  Matrix<float> fused(config.hidden_size, FusedWidth(config, layer.v));
  int64_t column = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const Matrix<float> up = AsFloat(layer.v.up[static_cast<size_t>(g)]);  // [g*d, rank]
    for (int64_t h = 0; h < heads_per_group; ++h) {
      const int64_t up_row = h / config.heads_per_kv() * d;
      Gemm(Trans::kNo, Trans::kNo, 1.0f, o.View().ColRange((g * heads_per_group + h) * d, d),
           up.View().RowRange(up_row, d), 0.0f, fused.View().ColRange(column, up.cols()));
      column += up.cols();
    }
  }
  FusedOutput result;
  result.weight = OwnedTensor(FusedType(layer), {fused.rows(), fused.cols()});
  FromFloat(fused.data(), fused.size(), FusedType(layer), result.weight.data());
  if (!layer.v.bias && !layer.o_bias) return result;

  result.has_bias = true;
  result.bias = OwnedTensor(DType::kF32, {config.hidden_size});
  auto* bias = reinterpret_cast<float*>(result.bias.data());
  std::fill_n(bias, config.hidden_size, 0.0f);
  if (layer.o_bias) ToFloat(layer.o_bias, bias);
  if (layer.v.bias) {  // every query head adds the bias of its KV head
    Matrix<float> v_bias(1, config.kv_size());
    ToFloat(layer.v.bias, v_bias.data());
    for (int64_t row = 0; row < config.hidden_size; ++row) {
      double sum = bias[row];
      for (int64_t c = 0; c < config.q_size(); ++c) {
        const int64_t kv_head = c / d / config.heads_per_kv();
        sum += static_cast<double>(o(row, c)) * v_bias(0, kv_head * d + c % d);
      }
      bias[row] = static_cast<float>(sum);
    }
  }
  return result;
}

}  // namespace palu
