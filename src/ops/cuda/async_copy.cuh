// Barriers in shared memory and the copies that arrive at them (sm_90).
#pragma once

#include <cstdint>

#include "ops/cuda/mma.cuh"

namespace palu::cuda {

// A barrier of `arrivals` per phase; phases alternate between parity 0 (the first) and 1.
struct alignas(8) PhaseBarrier {
  uint64_t state;

  __device__ void Init(int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(SharedAddress(this)), "r"(arrivals)
                 : "memory");
  }
  __device__ void Arrive() {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];\n" ::"r"(SharedAddress(this)) : "memory");
  }
  // Arrives, and the phase also waits for `bytes` of bulk copies.
  __device__ void ArriveExpecting(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(SharedAddress(this)),
                 "r"(bytes)
                 : "memory");
  }
  // Waits for the end of the newest phase of this parity.
  __device__ void Wait(uint32_t parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(SharedAddress(this)),
        "r"(parity)
        : "memory");
  }
};

// Makes initialised barriers visible to the copy engine.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

// True in one lane of a warp that all lanes are in.
__device__ inline bool ElectLane() {
  int elected;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xFFFFFFFF;\n"
      "selp.s32 %0, 1, 0, p;\n}\n"
      : "=r"(elected));
  return elected != 0;
}

// Copies a multiple of 16 bytes, both ends aligned to 16, as one transaction of `barrier`.
__device__ inline void CopyBulk(void* shared, const void* global, uint32_t bytes,
                                PhaseBarrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(&barrier))
      : "memory");
}

// Lets the next kernel of the stream start where it can; it waits for this one's end by itself.
__device__ inline void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}
// Waits for the end of the kernel before, when this one was started early.
__device__ inline void WaitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

// Makes what was written to shared memory visible to warpgroup products and bulk copies.
__device__ inline void FenceForProducts() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// Barrier `id` among `kThreads` threads.
template <int kThreads>
__device__ inline void SyncNamed(int id) {
  asm volatile("barrier.cta.sync %0, %1;\n" ::"r"(id), "n"(kThreads) : "memory");
}
// The same; true when `any` of the threads says so.
template <int kThreads>
__device__ inline bool SyncAny(int id, bool any) {
  int result;
  asm volatile(
      "{\n.reg .pred p, q;\nsetp.ne.s32 p, %1, 0;\n"
      "barrier.cta.red.or.pred q, %2, %3, p;\nselp.s32 %0, 1, 0, q;\n}\n"
      : "=r"(result)
      : "r"(static_cast<int>(any)), "r"(id), "n"(kThreads)
      : "memory");
  return result != 0;
}

}  // namespace palu::cuda
