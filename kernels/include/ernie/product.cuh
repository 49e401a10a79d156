// What the wgmma and the mma.sync products share: the description of a launch and the epilogues.
#pragma once

#include <cstdint>

#include "ernie/grouped.h"
#include "ernie/vector.cuh"
#include "ernie/work_list.cuh"

namespace ernie {

enum class Job {
  kUp,     // rows gathered by order; SwiGLU; stored at the sorted position
  kDown,   // rows in place; stored at the pair's position
  kDense,           // rows in place; bias, residual
  kDenseActivated,  // … and an activation
  kDenseFloat,      // rows in place; the float32 sums
};

// One launch, passed by value. Device pointers.
struct Product {
  Groups groups;
  int columns;       // of the result
  int k;
  int column_tiles;
  const bf16* x;     // [rows, k], or [tokens, k] for kUp
  const bf16* w;     // [num_groups, columns (2 · columns for kUp), k]
  const int* order;  // kUp, kDown
  int slots;         // kUp
  void* out;         // [rows, columns]: bf16, for kDenseFloat float
  const bf16* bias;      // kDense, kDenseActivated; may be null
  const bf16* residual;  // the same
  Activation activation;
};

// On mma.sync, for every device from sm_80 on. Fills in column_tiles.
void run_fallback(Context& context, Job job, Product product);

// 1 / (1 + exp(-x)) by the fast units: an error far below bf16's; denormals count as zero.
__device__ __forceinline__ float sigmoid(float x) {
  float exponential, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(exponential) : "f"(x * -1.442695041f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.f + exponential));
  return inverse;
}

__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }

__device__ __forceinline__ float activate(float x, Activation activation) {
  if (activation == Activation::kGelu) return 0.5f * x * (1.f + erff(x * 0.70710678f));
  if (activation == Activation::kQuickGelu) return x * sigmoid(1.702f * x);
  return x;
}

// A quad of lanes holds a row of four 8-column blocks as the matrix units leave them: lane q has
// columns 2q, 2q+1 of block i in v[i]. Afterwards lane q holds block q whole: columns 2i, 2i+1 in v[i].
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4]) {
  const bool odd = threadIdx.x % 2, high = threadIdx.x % 4 >= 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? v[i] : v[i + 1], 1);
    v[i] = odd ? other : v[i];
    v[i + 1] = odd ? v[i + 1] : other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i + 2], 2);
    v[i] = high ? other : v[i];
    v[i + 2] = high ? v[i + 2] : other;
  }
}

}  // namespace ernie
