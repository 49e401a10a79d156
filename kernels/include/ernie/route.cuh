// Pieces of the router that its kernels share: the choice of one token's experts, by one warp, and
// stable positions of pairs sorted by group.
#pragma once

#include <cuda_bf16.h>

#include <climits>
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

__device__ __forceinline__ float value_of(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// Softmax over gate.experts logits, the top_k of p + bias, their weights; by one warp. `p` holds the
// logits of experts lane + 32i, -INFINITY past the last. Lane s returns slot s; lanes past the slots
// return (-1, 0).
template <int kPerLane>
__device__ __forceinline__ void choose(const RouteJob& job, const Gate& gate, const float* bias,
                                       float (&p)[kPerLane], int& id, float& weight) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  unsigned highest = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) highest = max(highest, sortable(p[i]));
  const float top = value_of(__reduce_max_sync(kAll, highest));
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
    key[i] = e < gate.experts ? sortable(p[i] + bias[e]) : 0u;
  }
  unsigned mine = 0;  // expert of slot `lane`
#pragma unroll 1
  for (int s = 0; s < job.top_k; ++s) {
    unsigned best = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) best = max(best, key[i]);
    best = __reduce_max_sync(kAll, best);
    unsigned expert = 0;
    if constexpr (kPerLane <= 2) {
#pragma unroll
      for (int i = kPerLane - 1; i >= 0; --i) {
        const unsigned holders = __ballot_sync(kAll, key[i] == best);
        if (holders != 0) expert = i * 32 + __ffs(holders) - 1;
      }
    } else {
      expert = kAll;
#pragma unroll
      for (int i = kPerLane - 1; i >= 0; --i) {
        if (key[i] == best) expert = lane + i * 32;
      }
      expert = __reduce_min_sync(kAll, expert);
    }
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert == static_cast<unsigned>(lane + i * 32)) key[i] = 0;
    }
    if (lane == s) mine = expert;
  }
  id = -1;
  weight = 0.f;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float other = __shfl_sync(kAll, p[i], mine % 32);
    if (lane < job.top_k && mine / 32 == static_cast<unsigned>(i)) weight = other;
  }
  float chosen = weight;
  for (int step = 1; step < job.top_k; step *= 2) chosen += __shfl_xor_sync(kAll, chosen, step);
  weight /= fmaxf(chosen, job.norm_min);
  if (lane < job.top_k) {
    id = gate.first_group + static_cast<int>(mine);
  } else if (lane < job.slots()) {
    id = job.first_shared + lane - job.top_k;
    weight = 1.f;
  }
}

// Order and offsets of up to kThreads pairs: each counts those before it. `ids` is in shared memory,
// aligned to 16 bytes and filled up to a multiple of four with INT_MAX.
template <int kThreads>
__device__ __forceinline__ void sort_few(const RouteJob& job, const int* ids, int pairs) {
  const int p = threadIdx.x;
  const int own = p < pairs ? ids[p] : -1;
  int position = 0;
  int before[2] = {0, 0};  // this thread's groups
#pragma unroll 1
  for (int q = 0; q < pairs; q += 4) {
    const int4 four = *reinterpret_cast<const int4*>(ids + q);
    const int others[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      position += others[i] < own || (others[i] == own && q + i < p);
#pragma unroll
      for (int k = 0; k < 2; ++k) before[k] += others[i] < p + k * kThreads;
    }
  }
  if (p < pairs) job.order[position] = p;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (p + k * kThreads <= job.groups) job.offsets[p + k * kThreads] = before[k];
  }
  for (int g = p + 2 * kThreads; g <= job.groups; g += kThreads) {
    int count = 0;
#pragma unroll 1
    for (int q = 0; q < pairs; ++q) count += ids[q] < g;
    job.offsets[g] = count;
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
