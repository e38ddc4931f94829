// The ways in which the kernels hand shared memory from thread to thread, each alone in a kernel as
// small as possible, for compute-sanitizer's racecheck (scripts/sanitize_gpu.sh):
//
//   palu_racecheck_patterns          lists them
//   palu_racecheck_patterns NAME     runs one; the status is 0 when its result is right
//
// Rings need a device of compute capability 9.
//
// What racecheck says of a pattern that is ordered by the PTX memory model is what it can follow.
// Patterns called broken read before they wait.
#include <cstdio>
#include <cstring>
#include <numeric>
#include <vector>

#include "ops/cuda/async_copy.cuh"
#include "tensor/cuda/buffer.h"

namespace palu::cuda {
namespace {

constexpr int kConsumers = 128, kTiles = 9, kStages = 2;
constexpr int kTile = kConsumers;  // numbers of a tile, which all come from device memory

enum class Copy {
  kBulk,    // cp.async.bulk by one lane, whose bytes the barrier waits for
  kStores,  // a warp's stores
};
enum class Arrivals {
  kOneLane,  // of each warp, after __syncwarp: other lanes' accesses come before by cumulativity
  kAllLanes
};

struct Ring {
  int tiles[kStages][kTile];
  PhaseBarrier full[kStages], empty[kStages];
};

template <Arrivals kArrivals>
__device__ void Release(PhaseBarrier& barrier) {
  if constexpr (kArrivals == Arrivals::kAllLanes) {
    barrier.Arrive();
  } else {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier.Arrive();
  }
}

// The last warp fills a ring, the others read other threads' numbers of it. out [kConsumers]: sums
// over all tiles.
template <Copy kCopy, Arrivals kArrivals, bool kWaits>
__global__ void PassThroughRing(const int* from, int* out) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kAll = kArrivals == Arrivals::kAllLanes;
  __shared__ alignas(128) Ring ring;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      ring.full[s].Init(kCopy == Copy::kStores && kAll ? 32 : 1);
      ring.empty[s].Init(kAll ? kConsumers : kConsumers / 32);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  int sum = 0;
  for (int t = 0; t < kTiles; ++t) {
    const int stage = t % kStages;
    const auto phase = static_cast<uint32_t>(t / kStages % 2);
    if (thread >= kConsumers) {
      ring.empty[stage].Wait(phase ^ 1);
      if constexpr (kCopy == Copy::kBulk) {
        if (ElectLane()) {
          ring.full[stage].ArriveExpecting(sizeof(ring.tiles[stage]));
          CopyBulk(ring.tiles[stage], from + t * kTile, sizeof(ring.tiles[stage]),
                   ring.full[stage]);
        }
      } else {
        for (int i = thread - kConsumers; i < kTile; i += 32) {
          ring.tiles[stage][i] = from[t * kTile + i];
        }
        Release<kArrivals>(ring.full[stage]);
      }
    } else {
      if (kWaits) ring.full[stage].Wait(phase);
      sum += ring.tiles[stage][(thread + 37) % kTile];
      if (!kWaits) ring.full[stage].Wait(phase);
      Release<kArrivals>(ring.empty[stage]);
    }
  }
  if (thread < kConsumers) out[thread] = sum;
#endif
}

// Two groups of threads, each with a named barrier of its own, pass numbers on to neighbours.
template <bool kVotes, bool kWaits>
__global__ void PassInGroups(const int* from, int* out) {
  constexpr int kGroup = kConsumers / 2;
  __shared__ int places[kConsumers];
  const int thread = static_cast<int>(threadIdx.x), group = thread / kGroup;
  const auto sync = [&] {
    if constexpr (kVotes) {
      SyncAny<kGroup>(1 + group, thread % 2 == 0);
    } else {
      SyncNamed<kGroup>(1 + group);
    }
  };
  int sum = 0;
  for (int t = 0; t < kTiles; ++t) {
    places[thread] = from[t * kTile + thread];
    if (kWaits) sync();
    sum += places[group * kGroup + (thread + 37) % kGroup];
    if (!kWaits) sync();
    sync();
  }
  out[thread] = sum;
}

struct Pattern {
  const char* name;
  void (*kernel)(const int*, int*);
  int threads, group;  // whose numbers a thread reads
  bool ordered;
};

constexpr int kRingThreads = kConsumers + 32;
const Pattern kPatterns[] = {
    {"bulk-copy,one-lane-arrives", PassThroughRing<Copy::kBulk, Arrivals::kOneLane, true>,
     kRingThreads, kConsumers, true},
    {"bulk-copy,all-lanes-arrive", PassThroughRing<Copy::kBulk, Arrivals::kAllLanes, true>,
     kRingThreads, kConsumers, true},
    {"bulk-copy,broken", PassThroughRing<Copy::kBulk, Arrivals::kAllLanes, false>, kRingThreads,
     kConsumers, false},
    {"stores,one-lane-arrives", PassThroughRing<Copy::kStores, Arrivals::kOneLane, true>,
     kRingThreads, kConsumers, true},
    {"stores,all-lanes-arrive", PassThroughRing<Copy::kStores, Arrivals::kAllLanes, true>,
     kRingThreads, kConsumers, true},
    {"stores,broken", PassThroughRing<Copy::kStores, Arrivals::kAllLanes, false>, kRingThreads,
     kConsumers, false},
    {"named-barrier", PassInGroups<false, true>, kConsumers, kConsumers / 2, true},
    {"named-barrier,vote", PassInGroups<true, true>, kConsumers, kConsumers / 2, true},
    {"named-barrier,broken", PassInGroups<false, false>, kConsumers, kConsumers / 2, false},
};

bool RunsRight(const Pattern& pattern) {
  std::vector<int> numbers(kTiles * kTile), sums(kConsumers);
  std::iota(numbers.begin(), numbers.end(), 1);
  DeviceBuffer<int> from(std::ssize(numbers)), out(kConsumers);
  from.Upload(numbers.data(), std::ssize(numbers), nullptr);
  pattern.kernel<<<1, static_cast<unsigned>(pattern.threads)>>>(from.data(), out.data());
  Check(cudaGetLastError(), "launching a pattern");
  out.Download(sums.data(), kConsumers, nullptr);
  Check(cudaStreamSynchronize(nullptr), "running a pattern");
  for (int i = 0; i < kConsumers; ++i) {
    int expected = 0;
    const int source = i / pattern.group * pattern.group + (i + 37) % pattern.group;
    for (int t = 0; t < kTiles; ++t) expected += numbers[static_cast<size_t>(t * kTile + source)];
    if (sums[static_cast<size_t>(i)] != expected) return false;
  }
  return true;
}

}  // namespace
}  // namespace palu::cuda

int main(int argc, char** argv) {
  using namespace palu::cuda;
  for (const Pattern& pattern : kPatterns) {
    if (argc < 2) {
      std::puts(pattern.name);
    } else if (std::strcmp(argv[1], pattern.name) == 0) {
      return RunsRight(pattern) || !pattern.ordered ? 0 : 1;
    }
  }
  return argc < 2 ? 0 : 2;
}
