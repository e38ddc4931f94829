// One thread block per row. Tokens are ordered by logit, ties by index, but never sorted: a place
// in that order is found by descending through the digits of the logits' keys with a histogram of
// weights per digit, whole numbers all, so that the order of additions does not matter.
#include "ops/cuda/sample.h"

#include <cassert>

#include "ops/cuda/reduce.cuh"
#include "tensor/cuda/check.h"

namespace palu::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;  // of a digit of 8 bits
constexpr int kHistogramBytes = kWarps * kBins * static_cast<int>(sizeof(uint64_t));
constexpr int kMassBits = 44;  // of the most likely token's weight
constexpr int kLowBits = 27;   // 32 lanes' sums of so many bits fit into 32
constexpr uint32_t kNaN = 0xFFFFFFFFu;

// Larger floats have larger keys; both zeros have one, and NaN the largest.
__device__ inline uint32_t KeyOf(float x) {
  if (isnan(x)) return kNaN;
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float LogitOf(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

struct Row {
  const float* logits;
  int n;
  double max, temperature;

  __device__ double Probability(uint32_t key) const {  // relative to the most likely token's
    return exp((static_cast<double>(LogitOf(key)) - max) / temperature);
  }
  __device__ uint64_t Mass(uint32_t key) const {
    return __double2ull_rn(Probability(key) * static_cast<double>(uint64_t{1} << kMassBits));
  }
  // body(index, key) for all tokens, coalesced, the next load under way.
  template <class Body>
  __device__ void ForEach(const Body& body) const {
    int i = static_cast<int>(threadIdx.x);
    float logit = i < n ? logits[i] : 0;
    for (int begin = 0; begin < n; begin += kThreads, i += kThreads) {
      const float next = i + kThreads < n ? logits[i + kThreads] : 0;
      body(i, KeyOf(logit));
      logit = next;
    }
  }
};

// In descending order: all tokens with a larger key, and the first `ties` with this one.
struct Place {
  uint32_t key = 0;
  uint64_t ties = ~uint64_t{0};
  uint64_t sum = 0;  // of the weights so far
};

// The digit in whose bin the sum from the top reaches `target`, and the sum above that bin.
struct Digit {
  int bin;
  uint64_t above;
};

__device__ inline Digit FindDigit(const uint64_t* totals, uint64_t target, Digit& shared) {
  constexpr int kPerLane = kBins / 32;
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x), top = kBins - 1 - lane * kPerLane;
    uint64_t own = 0;
    for (int b = 0; b < kPerLane; ++b) own += totals[top - b];
    uint64_t through = own;  // of this lane's bins and all above them
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint64_t other = __shfl_up_sync(kAllLanes, through, offset);
      if (lane >= offset) through += other;
    }
    const unsigned reached = __ballot_sync(kAllLanes, through >= target);
    if (lane == __ffs(static_cast<int>(reached)) - 1) {
      uint64_t above = through - own;
      int bin = top;
      while (above + totals[bin] < target) above += totals[bin--];
      shared = {bin, above};
    }
  }
  __syncthreads();
  return shared;
}

// The first place where the sum of weight(key) reaches `target`, between 1 and the sum of all.
template <class Weight>
__device__ Place Find(const Row& row, uint64_t target, const Weight& weight, uint64_t* histograms) {
  __shared__ uint64_t totals[kBins];
  __shared__ Digit digit;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  uint64_t* own = histograms + thread / 32 * kBins;
  Place place;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int b = thread; b < kWarps * kBins; b += kThreads) histograms[b] = 0;
    __syncthreads();
    row.ForEach([&](int i, uint32_t key) {
      const bool counts = i < row.n && (shift == 24 || key >> (shift + 8) == place.key);
      const unsigned counting = __ballot_sync(kAllLanes, counts);
      if (counts) {
        const int bin = static_cast<int>((key >> shift) % kBins);
        const uint64_t mass = weight(key);
        const unsigned same = __match_any_sync(counting, bin);
        const auto low = static_cast<unsigned>(mass & ((1u << kLowBits) - 1));
        const auto high = static_cast<unsigned>(mass >> kLowBits);
        const uint64_t sum = __reduce_add_sync(same, low) +
                             (static_cast<uint64_t>(__reduce_add_sync(same, high)) << kLowBits);
        if (lane == __ffs(static_cast<int>(same)) - 1) own[bin] += sum;
      }
      __syncwarp();
    });
    __syncthreads();
    if (thread < kBins) {
      uint64_t total = 0;
      for (int w = 0; w < kWarps; ++w) total += histograms[w * kBins + thread];
      totals[thread] = total;
    }
    __syncthreads();
    const Digit found = FindDigit(totals, target - place.sum, digit);
    place.key = place.key << 8 | static_cast<uint32_t>(found.bin);
    place.sum += found.above;
  }
  const uint64_t each = weight(place.key);
  place.ties = (target - place.sum + each - 1) / each;
  place.sum += place.ties * each;
  return place;
}

__device__ inline uint64_t BlockSum(uint64_t value) {
  return BlockReduce(value, uint64_t{0}, [](uint64_t a, uint64_t b) { return a + b; });
}

// The weight of all tokens up to `last` that are at least min_p times as likely as the first.
__device__ uint64_t MassUpTo(const Row& row, const Place& last, double min_p) {
  uint64_t sum = 0, ties = 0;
  row.ForEach([&](int i, uint32_t key) {
    if (i >= row.n || key < last.key || row.Probability(key) < min_p) return;
    if (key == last.key) {
      ++ties;
    } else {
      sum += row.Mass(key);
    }
  });
  ties = BlockSum(ties);
  if (ties > last.ties) ties = last.ties;
  return BlockSum(sum) + ties * row.Mass(last.key);
}

// The index of the place's token.
__device__ int32_t IndexOf(const Row& row, const Place& place) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  if (place.ties == 1) {
    int32_t first = row.n;
    row.ForEach([&](int i, uint32_t key) {
      if (i < row.n && key == place.key && i < first) first = i;
    });
    return BlockReduce(first, row.n, [](int32_t a, int32_t b) { return min(a, b); });
  }
  __shared__ int counts[kWarps];
  int32_t found = -1;  // by one thread
  uint64_t seen = 0;
  for (int begin = 0; begin < row.n && seen < place.ties; begin += kThreads) {
    const int i = begin + thread;
    const unsigned same = __ballot_sync(kAllLanes, i < row.n && KeyOf(row.logits[i]) == place.key);
    if (lane == 0) counts[thread / 32] = __popc(same);
    __syncthreads();
    uint64_t before = seen;
    for (int w = 0; w < kWarps; ++w) {
      if (w < thread / 32) before += static_cast<uint64_t>(counts[w]);
      seen += static_cast<uint64_t>(counts[w]);
    }
    const auto earlier = static_cast<uint64_t>(__popc(same & ((1u << lane) - 1)));
    if ((same >> lane & 1) != 0 && before + earlier + 1 == place.ties) found = i;
    __syncthreads();
  }
  return BlockReduce(found, int32_t{-1}, [](int32_t a, int32_t b) { return max(a, b); });
}

__device__ inline uint64_t AtLeastOne(double x) { return x < 1 ? 1 : static_cast<uint64_t>(x); }

__global__ void __launch_bounds__(kThreads) SampleKernel(const float* logits, int64_t stride, int n,
                                                         const DeviceDraw* draws, int32_t* tokens) {
  extern __shared__ uint64_t histograms[];
  const DeviceDraw draw = draws[blockIdx.x];
  Row row{logits + blockIdx.x * stride, n, 0, draw.temperature};

  // The largest key, then the smallest index, in one number.
  uint64_t best = 0;
  row.ForEach([&](int i, uint32_t key) {
    const uint64_t candidate = static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(~i);
    if (i < n && candidate > best) best = candidate;
  });
  best = BlockReduce(best, uint64_t{0}, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  const auto best_key = static_cast<uint32_t>(best >> 32);
  const float max = LogitOf(best_key);
  if (draw.temperature == 0 || best_key == kNaN || isinf(max)) {
    if (threadIdx.x == 0) tokens[blockIdx.x] = static_cast<int32_t>(~static_cast<uint32_t>(best));
    return;
  }
  row.max = max;

  const auto mass = [&](uint32_t key) { return row.Mass(key); };
  Place last;  // all tokens
  if (draw.top_k > 0 && draw.top_k < n) {
    last = Find(
        row, static_cast<uint64_t>(draw.top_k), [](uint32_t) { return uint64_t{1}; }, histograms);
  }
  if (draw.top_p < 1) {
    const uint64_t all = MassUpTo(row, last, 0);
    const uint64_t target = AtLeastOne(ceil(draw.top_p * static_cast<double>(all)));
    last = Find(row, target < all ? target : all, mass, histograms);
  }
  const uint64_t kept = MassUpTo(row, last, draw.min_p);
  const uint64_t target = AtLeastOne(floor(draw.uniform * static_cast<double>(kept)) + 1);
  const Place chosen = Find(row, target < kept ? target : kept, mass, histograms);
  const int32_t token = IndexOf(row, chosen);
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

}  // namespace

void SampleTokens(const DeviceMatrix& logits, const DeviceDraw* draws, int32_t* tokens,
                  cudaStream_t stream) {
  assert(logits.dtype == DType::kF32);
  if (logits.rows == 0) return;
  Check(cudaFuncSetAttribute(SampleKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kHistogramBytes),
        "reserving shared memory for sampling");
  SampleKernel<<<static_cast<unsigned>(logits.rows), kThreads, kHistogramBytes, stream>>>(
      static_cast<const float*>(logits.data), logits.stride, static_cast<int>(logits.cols), draws,
      tokens);
  Check(cudaGetLastError(), "sampling");
}

}  // namespace palu::cuda
