// Pieces of the router that its kernels share: the choice of one token's experts, by one warp, and
// stable positions of pairs sorted by group.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ernie/reduce.cuh"
#include "ernie/vector.cuh"

namespace ernie {

// One modality's gate.
struct Gate {
  const float* weight;  // [experts, depth]
  const float* bias;    // [experts]
  int experts;
  int first_group;
};

struct RouteJob {
  const __nv_bfloat16* x;     // [tokens, depth]
  const uint8_t* is_vision;  // [tokens] or null
  Gate text, vision;
  int tokens, depth;
  int top_k, num_shared, first_shared;
  float norm_min;
  int groups;
  int* ids;        // [tokens, top_k + num_shared]
  float* weights;  // the same
  int* order;
  int* offsets;
  int* tickets;  // zeroed here
  int num_tickets;
  int cluster_tokens;
  int* arrivals;  // blocks done; zero between launches

  __host__ __device__ int slots() const { return top_k + num_shared; }
};

constexpr int kMaxExperts = 256;  // of one modality
constexpr int kMaxSlots = 32;     // a lane for each

// Order-preserving; greater than 0, NaN lowest.
__device__ __forceinline__ unsigned sortable(float value) {
  const unsigned bits = __float_as_uint(value);
  if (value != value) return 1u;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Two values to three pairs of bf16 that add up to them.
__device__ __forceinline__ void split_in_three(float a, float b, uint32_t& high,
                                               uint32_t& middle, uint32_t& low) {
  high = pack_2(a, b);
  a -= low_float(high);
  b -= high_float(high);
  middle = pack_2(a, b);
  low = pack_2(a - low_float(middle), b - high_float(middle));
}

// Softmax over gate.experts logits, the top_k of p + bias, their weights; by one warp. Lane s
// returns slot s; lanes past the slots return (-1, 0).
template <int kPerLane>
__device__ __forceinline__ void choose(const RouteJob& job, const Gate& gate, const float* logits,
                                       int& id, float& weight) {
  const int lane = threadIdx.x % 32;
  float p[kPerLane];
  float top = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = lane + i * 32;
    p[i] = e < gate.experts ? logits[e] : -INFINITY;
    top = fmaxf(top, p[i]);
  }
  top = warp_max(top);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    p[i] = expf(p[i] - top);
    if (lane + i * 32 < gate.experts) sum += p[i];
  }
  sum = warp_sum(sum);
  unsigned key[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int e = lane + i * 32;
    p[i] /= sum;
    key[i] = e < gate.experts ? sortable(p[i] + gate.bias[e]) : 0u;
  }
  float chosen = 0.f;
  id = -1;
  weight = 0.f;
  for (int s = 0; s < job.top_k; ++s) {
    unsigned best = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) best = max(best, key[i]);
    best = __reduce_max_sync(0xffffffffu, best);
    unsigned expert = 0xffffffffu;
#pragma unroll
    for (int i = kPerLane - 1; i >= 0; --i) {
      if (key[i] == best) expert = lane + i * 32;
    }
    expert = __reduce_min_sync(0xffffffffu, expert);
    float mine = 0.f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert == static_cast<unsigned>(lane + i * 32)) {
        mine = p[i];
        key[i] = 0;
      }
    }
    mine = __shfl_sync(0xffffffffu, mine, expert % 32);
    chosen += mine;
    if (lane == s) {
      id = gate.first_group + static_cast<int>(expert);
      weight = mine;
    }
  }
  weight /= fmaxf(chosen, job.norm_min);
  if (lane >= job.top_k && lane < job.slots()) {
    id = job.first_shared + lane - job.top_k;
    weight = 1.f;
  }
}

// Pairs of consecutive positions, dealt to warps in runs; `counts` is [warps][groups] in shared
// memory, zero at first. Every warp counts its run …
__device__ __forceinline__ void count_run(const int* ids, int first, int last, int* counts) {
  const int lane = threadIdx.x % 32;
  for (int base = first; base < last; base += 32) {
    const int p = base + lane;
    const int id = p < last ? ids[p] : -1;
    const unsigned same = __match_any_sync(0xffffffffu, id);
    if (id >= 0 && lane == __ffs(same) - 1) counts[id] += __popc(same);
    __syncwarp();
  }
}

// … and, once `next` holds the sorted position of its run's first pair of each group, places it.
__device__ __forceinline__ void place_run(const int* ids, int first, int last, int* next,
                                          int* order) {
  const int lane = threadIdx.x % 32;
  for (int base = first; base < last; base += 32) {
    const int p = base + lane;
    const int id = p < last ? ids[p] : -1;
    const unsigned same = __match_any_sync(0xffffffffu, id);
    if (id >= 0) order[next[id] + __popc(same & ((1u << lane) - 1))] = p;
    __syncwarp();
    if (id >= 0 && lane == __ffs(same) - 1) next[id] += __popc(same);
    __syncwarp();
  }
}

// Exclusive prefix sums of totals[0 … groups - 1] into offsets[0 … groups], by one warp.
__device__ __forceinline__ void scan_totals(const int* totals, int groups, int* offsets) {
  const int lane = threadIdx.x % 32;
  int sum = 0;
  for (int base = 0; base < groups; base += 32) {
    const int g = base + lane;
    int scan = g < groups ? totals[g] : 0;
    const int own = scan;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(0xffffffffu, scan, step);
      if (lane >= step) scan += below;
    }
    if (g < groups) offsets[g] = sum + scan - own;
    sum += __shfl_sync(0xffffffffu, scan, 31);
  }
  if (lane == 0) offsets[groups] = sum;
}

}  // namespace ernie
