// Tokens that the device chooses against the CPU's sampler.
#include "ops/cuda/sample.h"

#include <cmath>

#include "cuda_testing.h"
#include "runtime/sampler.h"

namespace palu::testing {
namespace {

std::vector<int32_t> OnDevice(const std::vector<float>& logits, int64_t vocab,
                              const std::vector<Draw>& draws) {
  std::vector<cuda::DeviceDraw> host;
  for (const Draw& draw : draws) {
    host.push_back({draw.params.temperature, draw.params.top_p, draw.params.min_p, draw.uniform,
                    draw.params.top_k});
  }
  const auto rows = std::ssize(draws);
  const auto device_draws = ToDevice(host);
  const auto device_logits = ToDevice(logits);
  const auto tokens = ToDevice(std::vector<int32_t>(draws.size(), -1));
  cuda::SampleTokens(cuda::MakeMatrix(device_logits.data(), DType::kF32, rows, vocab),
                     device_draws.data(), tokens.data(), nullptr);
  return ToHost(tokens);
}

std::vector<int32_t> OnCpu(const std::vector<float>& logits, int64_t vocab,
                           const std::vector<Draw>& draws) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < draws.size(); ++i) {
    tokens.push_back(Sampler::Sample(
        std::span(logits).subspan(i * static_cast<size_t>(vocab), static_cast<size_t>(vocab)),
        draws[i]));
  }
  return tokens;
}

TEST(CudaSample, GreedyIsTheCpusToken) {
  PALU_SKIP_WITHOUT_DEVICE();
  for (const int64_t vocab : {1, 31, 1024, 5001}) {
    auto logits = RandomFloats(4 * vocab, 1, 5.0f);
    const auto last = static_cast<size_t>(vocab - 1);
    logits[last] = logits[0] = 100;  // the first of ties
    logits[static_cast<size_t>(vocab) + last] = std::nanf("");
    logits[2 * static_cast<size_t>(vocab)] = -0.0f;  // zeros are equal
    for (size_t i = 1; i <= last; ++i) logits[2 * static_cast<size_t>(vocab) + i] = 0.0f;
    const std::vector<Draw> draws(4);
    EXPECT_EQ(OnDevice(logits, vocab, draws), OnCpu(logits, vocab, draws)) << vocab;
  }
}

// The two may differ where the random number lies within vocab * 2^-45 of a border: with 512 draws
// from 5001 tokens of a fixed seed the chance of one such is below 512 * 5001 * 5001 * 2^-44 =
// 7e-4.
TEST(CudaSample, EveryFilterGivesTheCpusTokens) {
  PALU_SKIP_WITHOUT_DEVICE();
  constexpr int64_t kRows = 512;
  for (const int64_t vocab : {7, 1000, 5001}) {
    const auto logits = RandomFloats(kRows * vocab, 2, 8.0f);
    for (const SamplingParams& params : std::vector<SamplingParams>{
             {.temperature = 1},
             {.temperature = 0.3, .top_k = 40},
             {.temperature = 2, .top_p = 0.9},
             {.temperature = 1, .min_p = 0.05},
             {.temperature = 1.5, .top_k = 100, .top_p = 0.8, .min_p = 0.02},
             {.temperature = 1, .top_k = 1},
             {.temperature = 1, .top_p = 1e-9},
             {.temperature = 1, .min_p = 1}}) {
      SCOPED_TRACE(std::to_string(vocab) + " tokens, temperature " +
                   std::to_string(params.temperature) + ", top-k " + std::to_string(params.top_k) +
                   ", top-p " + std::to_string(params.top_p) + ", min-p " +
                   std::to_string(params.min_p));
      Sampler sampler(params);
      std::vector<Draw> draws;
      for (int64_t i = 0; i < kRows; ++i) draws.push_back(sampler.NextDraw());
      EXPECT_EQ(OnDevice(logits, vocab, draws), OnCpu(logits, vocab, draws));
    }
  }
}

// Ties are ordered by index, through top-k and through the draw.
TEST(CudaSample, TiesGoByIndex) {
  PALU_SKIP_WITHOUT_DEVICE();
  constexpr int64_t kVocab = 3000, kRows = 64;
  std::vector<float> logits;
  for (int64_t i = 0; i < kRows * kVocab; ++i) {
    logits.push_back(static_cast<float>(i * 7919 % 3));
  }
  for (const int64_t top_k : {0, 500, 1500}) {
    std::vector<Draw> draws;
    for (int64_t i = 0; i < kRows; ++i) {
      // Between the borders, which lie at whole multiples of tiny probabilities.
      draws.push_back({{.temperature = 1, .top_k = top_k},
                       (static_cast<double>(i) + 1 / std::sqrt(2.0)) / kRows});
    }
    EXPECT_EQ(OnDevice(logits, kVocab, draws), OnCpu(logits, kVocab, draws)) << top_k;
  }
}

}  // namespace
}  // namespace palu::testing
