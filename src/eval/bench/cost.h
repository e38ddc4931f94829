// Bytes and operations of one step of the engine, counted from the shapes: what the benchmark
// divides by time and holds against the machine's limits.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/transformer.h"

namespace palu {

// One sequence's part of a step: `count` new tokens after `start` stored ones.
struct ChunkShape {
  int64_t start = 0;
  int64_t count = 0;
};

struct Cost {
  double bytes = 0;  // read from memory
  double flops = 0;  // a multiply-add counts two

  Cost& operator+=(const Cost& other) {
    bytes += other.bytes;
    flops += other.flops;
    return *this;
  }
};

// Bytes: every matrix once per step (of the embedding one row per token; W_o or its fused form,
// U_v only where it is not fused; the head once), and the stored tokens of every sequence once.
// Operations: 2 per parameter and token, the head for one row per chunk, plus attention: scores and
// weighted values of the causal pairs, U_k for every stored token, U_v for every stored token
// (chunks) or for the sums of latents (single tokens). Norms, biases and activations are left out:
// less than a thousandth.
Cost CountStep(const Transformer& transformer, const CacheLayout& layout,
               std::span<const ChunkShape> chunks);

}  // namespace palu
