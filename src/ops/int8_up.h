// Keys from quantised latents by integer products.
//
// With codes q, scale s and zero z of a token and U in int8 with one scale u_f per row f,
//   k_f = sum_r U[f][r] h_r = s u_f (sum_r q_r U8[f][r] - z sum_r U8[f][r]):
// products of small integers add up exactly, so a key does not depend on the order of summation.
// Rounding U moves a key's elements by at most half a step of u_f = max |U[f]| / 127 per latent:
// 0.5 to 0.7 % of a score in the mean, against 5 to 11 % from 4-bit latents themselves.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ops/latent_quantization.h"
#include "tensor/tensor.h"

namespace palu {

// Latents of consecutive tokens, unpacked: what kernels over codes read.
struct CodeTile {
  AlignedBuffer<uint8_t> codes;      // [tokens, width]
  std::vector<float> scales, zeros;  // [tokens, runs]
  int64_t width = 0, run = 0, runs = 0;

  // Makes room for `tokens` rows of such latents.
  void Resize(const LatentQuantization& quantization, int64_t width, int64_t tokens);
  // Unpacks rows into the tile from row `at` on.
  void Load(const LatentQuantization& quantization, const PackedRows& rows, int64_t at,
            int64_t tokens);
};

// One KV head's rows of U, rounded to int8 and laid out for the kernels. Immutable.
class Int8Up {
 public:
  // Codes up to 4 bits; for 8-bit latents the rounding of U would be the larger error.
  static bool Supports(const LatentQuantization& quantization) { return quantization.bits <= 4; }

  // up: [d, width], any dtype; run: latents per scale.
  Int8Up(const TensorView& up, int64_t run);

  // keys [tokens, d] of the tile's first rows.
  void Rebuild(const CodeTile& tile, int64_t tokens, MatrixView<float> keys) const;

  // The same, rotated in registers: rotations[t] are token t's cosines and sines, d/2 each. Where
  // this machine, head or tile has no such kernel: false, and nothing is written.
  bool RebuildRotated(const CodeTile& tile, int64_t tokens, const float* const* rotations,
                      MatrixView<float> keys) const;

  // Row f of U as the kernels see it: U8[f][r] u_f, [width].
  std::vector<float> Row(int64_t f) const;

  // "AVX-512 VNNI", "AVX2" or "portable": what this machine runs.
  static std::string_view KernelName();

  int64_t head_dim() const { return head_dim_; }
  int64_t width() const { return width_; }
  int64_t run() const { return run_; }
  int8_t At(int64_t f, int64_t r) const {  // U8[f][r]
    return packed_.data()[(r / 4 * padded_ + f) * 4 + r % 4];
  }
  float scale(int64_t f) const { return scales_[static_cast<size_t>(f)]; }  // u_f
  float sum(int64_t f) const { return sums_[static_cast<size_t>(f)]; }      // over the first run

 private:
  void Run(const CodeTile& tile, int64_t tokens, const float* const* rotations,
           MatrixView<float> keys) const;

  int64_t head_dim_, padded_, width_, run_;
  AlignedBuffer<int8_t> packed_;  // [width / 4, padded, 4]; zeros beyond head_dim
  std::vector<float> scales_;     // u_f [padded]
  std::vector<float> sums_;       // sum_r U8[f][r] over each run, [runs, padded]
};

}  // namespace palu
