// Programmatic dependent launch: a kernel may start while the one before it still runs.
//
// Rules of every kernel, because launches chain all of them:
//   - pdl_trigger() early: it lets the next kernel's blocks come in as this one's leave room;
//   - pdl_wait() in every thread, before the first read of what an earlier kernel wrote and before
//     the first write; weights and other constants may be read ahead of it;
//   - no __restrict__ (and no ld.global.nc) on pointers to what an earlier kernel wrote: the compiler
//     may move such loads in front of the wait;
//   - pdl_wait() even in threads without work: completion is transitive only through it.
// Both do nothing before sm_90.
#pragma once

namespace ernie {

__device__ __forceinline__ void pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void pdl_trigger() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" :::);
#endif
}

}  // namespace ernie
