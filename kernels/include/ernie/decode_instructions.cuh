// Single instructions of the decode attention kernels, one function each.
#pragma once

#include <cstdint>

namespace ernie {

// A value that an earlier kernel may be writing. Whatever depends on it is kept inside the cache's
// bounds and, after pdl_wait(), compared with the value then or thrown away.
__device__ __forceinline__ int load_racing(const int* from) {
  int value;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from));
  return value;
}

// Brings a line of 128 bytes into the L1.
__device__ __forceinline__ void touch_line(const void* line) {
  asm volatile("{\n.reg .b32 unused;\nld.global.ca.b32 unused, [%0];\n}" ::"l"(line) : "memory");
}

// Asks the L2 for a line of 128 bytes; always safe.
__device__ __forceinline__ void hint_line(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

// The same for `bytes`, a multiple of 16; nothing before sm_90.
__device__ __forceinline__ void hint_bytes(const void* from, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void store_shared_4(uint32_t to, uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

// Writes 16 bytes of zeros.
__device__ __forceinline__ void clear_shared_16(uint32_t to) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(to), "r"(0) : "memory");
}

// Adds to a counter and returns what it was. What the block wrote before its last barrier is then
// visible to the blocks that add later.
__device__ __forceinline__ int arrive(int* counter, int count) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(count)
               : "memory");
  return before;
}

// Each thread gives two 16-bit elements of a row of an 8x8 matrix, as ldmatrix leaves them, and gets
// the same two of the transposed matrix.
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}

}  // namespace ernie
