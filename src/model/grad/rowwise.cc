#include "model/grad/rowwise.h"

#include <cmath>

#include "model/grad/parallel.h"
#include "model/grad/row_math.h"

namespace palu::grad {
namespace {

// 1 / sqrt(mean(x^2) + eps)
template <class T>
T InverseRms(const T* x, int64_t n, double eps) {
  return T(1) / std::sqrt(Dot(x, x, n) / static_cast<T>(n) + static_cast<T>(eps));
}

}  // namespace

template <class T>
void RmsNorm(ThreadPool& pool, MatrixView<const T> x, std::span<const T> weight, double eps,
             MatrixView<T> out) {
  const T* w = weight.data();
  ForRowBlocks(pool, x.rows, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      const T* in = x.Row(r);
      T* o = out.Row(r);
      const T scale = InverseRms(in, x.cols, eps);
      for (int64_t i = 0; i < x.cols; ++i) o[i] = in[i] * scale * w[i];
    }
  });
}

// With s = 1/rms: y_i = w_i s x_i, and ds/dx_j = -s^3 x_j / n, so
// dx_j = s w_j dy_j - x_j (s^3 / n) sum_i w_i dy_i x_i.
template <class T>
void RmsNormBackward(ThreadPool& pool, MatrixView<const T> x, std::span<const T> weight, double eps,
                     MatrixView<const T> dy, Into into, MatrixView<T> dx) {
  const T* w = weight.data();
  ForRowBlocks(pool, x.rows, [&](int64_t begin, int64_t count) {
    AlignedBuffer<T> weighted(x.cols);  // w dy
    T* wd = weighted.data();
    for (int64_t r = begin; r < begin + count; ++r) {
      const T* in = x.Row(r);
      T* out = dx.Row(r);
      for (int64_t i = 0; i < x.cols; ++i) wd[i] = w[i] * dy.Row(r)[i];
      const T scale = InverseRms(in, x.cols, eps);
      const T pull = scale * scale * scale * Dot(wd, in, x.cols) / static_cast<T>(x.cols);
      if (into == Into::kAdd) {
        for (int64_t i = 0; i < x.cols; ++i) out[i] += scale * wd[i] - pull * in[i];
      } else {
        for (int64_t i = 0; i < x.cols; ++i) out[i] = scale * wd[i] - pull * in[i];
      }
    }
  });
}

template <class T>
void RopeTable<T>::Fill(std::span<const double> inv_freq, int64_t n) {
  const auto half = static_cast<int64_t>(inv_freq.size());
  cos.Resize(n, half);
  sin.Resize(n, half);
  for (int64_t position = 0; position < n; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * inv_freq[i];
      cos(position, i) = static_cast<T>(std::cos(angle));
      sin(position, i) = static_cast<T>(std::sin(angle));
    }
  }
}

template <class T>
void Rope(ThreadPool& pool, const RopeTable<T>& table, Rotation rotation, MatrixView<T> x) {
  const int64_t half = table.cos.cols();
  const T sign = rotation == Rotation::kForward ? T(1) : T(-1);
  ForRowBlocks(pool, x.rows, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      const T* cos = table.cos.Row(r);
      const T* sin = table.sin.Row(r);
      for (int64_t head = 0; head < x.cols; head += 2 * half) {
        T* low = x.Row(r) + head;
        T* high = low + half;
        for (int64_t i = 0; i < half; ++i) {
          const T a = low[i], b = high[i], s = sign * sin[i];
          low[i] = a * cos[i] - b * s;
          high[i] = b * cos[i] + a * s;
        }
      }
    }
  });
}

template <class T>
void SwiGlu(ThreadPool& pool, MatrixView<const T> gate, MatrixView<const T> up, MatrixView<T> out) {
  ForRowBlocks(pool, gate.rows, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      const T* g = gate.Row(r);
      const T* u = up.Row(r);
      T* o = out.Row(r);
      for (int64_t i = 0; i < gate.cols; ++i) o[i] = g[i] * Sigmoid(g[i]) * u[i];
    }
  });
}

// silu(g) = g s with s = sigmoid(g) and s' = s (1 - s), so silu'(g) = s (1 + g (1 - s)).
template <class T>
void SwiGluBackward(ThreadPool& pool, MatrixView<const T> dout, MatrixView<T> gate,
                    MatrixView<T> up) {
  ForRowBlocks(pool, gate.rows, [&](int64_t begin, int64_t count) {
    for (int64_t r = begin; r < begin + count; ++r) {
      const T* d = dout.Row(r);
      T* g = gate.Row(r);
      T* u = up.Row(r);
      for (int64_t i = 0; i < gate.cols; ++i) {
        const T x = g[i], s = Sigmoid(x), y = u[i];
        g[i] = d[i] * y * s * (T(1) + x * (T(1) - s));
        u[i] = d[i] * x * s;
      }
    }
  });
}

#define PALU_GRAD_INSTANTIATE(T)                                                              \
  template struct RopeTable<T>;                                                               \
  template void RmsNorm(ThreadPool&, MatrixView<const T>, std::span<const T>, double,         \
                        MatrixView<T>);                                                       \
  template void RmsNormBackward(ThreadPool&, MatrixView<const T>, std::span<const T>, double, \
                                MatrixView<const T>, Into, MatrixView<T>);                    \
  template void Rope(ThreadPool&, const RopeTable<T>&, Rotation, MatrixView<T>);              \
  template void SwiGlu(ThreadPool&, MatrixView<const T>, MatrixView<const T>, MatrixView<T>); \
  template void SwiGluBackward(ThreadPool&, MatrixView<const T>, MatrixView<T>, MatrixView<T>);
PALU_GRAD_INSTANTIATE(float)
PALU_GRAD_INSTANTIATE(double)

}  // namespace palu::grad
