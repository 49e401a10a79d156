// Logits of many tokens by the tensor cores. A float32 gate is split into three bf16 terms, which
// together hold its 24 bits: x · gate = x · high + x · middle + x · low, each product exact. Sums of
// 64 columns are added in float32 outside the tensor core, which truncates as it accumulates.
#include "ernie/route_large.h"

#include <algorithm>

#include "ernie/launch.h"
#include "ernie/mma.cuh"
#include "ernie/pdl.cuh"
#include "ernie/route.cuh"
#include "ernie/stream_memory.cuh"
#include "ernie/vector.cuh"

namespace ernie {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTokens = 64;   // of a block
constexpr int kExperts = 64;  // of a block, eight for each warp
constexpr int kDepth = 64;
constexpr int kStages = 4;
constexpr int kTokenBytes = kTokens * kDepth * 2;
constexpr int kStageBytes = kTokenBytes + kExperts * kDepth * 4;
constexpr int kSortTokens = 64;  // of a block that sorts

// logits [tokens, text experts + vision experts]; only those of a token's own modality are needed.
// Grid: token tiles, expert tiles of the text gate and then of the vision gate.
__global__ void __launch_bounds__(kThreads)
    route_logits(const __grid_constant__ RouteJob job, float* logits) {
  extern __shared__ __align__(128) char shared[];
  pdl_trigger();
  const int text_tiles = (job.text.experts + kExperts - 1) / kExperts;
  const bool is_vision = static_cast<int>(blockIdx.y) >= text_tiles;
  const Gate& gate = is_vision ? job.vision : job.text;
  const int first_expert = (blockIdx.y - (is_vision ? text_tiles : 0)) * kExperts;
  const int first_token = blockIdx.x * kTokens;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const uint32_t base = shared_address(shared);
  const int chunks = (job.depth + kDepth - 1) / kDepth;
  pdl_wait();
  if (job.is_vision) {
    const int token = first_token + threadIdx.x;
    const bool wanted = threadIdx.x < kTokens && token < job.tokens &&
                        (job.is_vision[token] != 0) == is_vision;
    if (!__syncthreads_or(wanted)) return;
  }

  // 16-byte piece c of token row r lies at c ^ (4 if r is odd); of gate row r at c ^ (1 if r is odd).
  const auto load = [&](int chunk) {
    const uint32_t stage = base + (chunk % kStages) * kStageBytes;
#pragma unroll
    for (int i = 0; i < kTokens * 8 / kThreads; ++i) {
      const int r = (threadIdx.x + i * kThreads) / 8;
      const int c = threadIdx.x % 8;
      const int column = chunk * kDepth + c * 8;
      const bool valid = column < job.depth;
      const int row = min(first_token + r, job.tokens - 1);
      cp_async_16(stage + r * (kDepth * 2) + ((c ^ ((r & 1) << 2)) << 4),
                  job.x + static_cast<size_t>(row) * job.depth + (valid ? column : 0), valid);
    }
#pragma unroll
    for (int i = 0; i < kExperts * 16 / kThreads; ++i) {
      const int r = (threadIdx.x + i * kThreads) / 16;
      const int c = threadIdx.x % 16;
      const int column = chunk * kDepth + c * 4;
      const bool valid = column < job.depth;
      const int row = min(first_expert + r, gate.experts - 1);
      cp_async_16(stage + kTokenBytes + r * (kDepth * 4) + ((c ^ (r & 1)) << 4),
                  gate.weight + static_cast<size_t>(row) * job.depth + (valid ? column : 0), valid);
    }
  };

  float sum[4][4] = {};
  for (int c = 0; c < kStages - 1; ++c) {
    if (c < chunks) load(c);
    cp_async_commit();
  }
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    if (chunk + kStages - 1 < chunks) load(chunk + kStages - 1);
    cp_async_commit();
    const uint32_t stage = base + (chunk % kStages) * kStageBytes;
    float acc[4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // of 32 columns; lane (g, t) takes columns 8t … 8t + 7
      const uint32_t gate_row = stage + kTokenBytes + (warp * 8 + g) * (kDepth * 4);
      const int piece = half * 8 + 2 * t;
      const uint4 v0 = load_shared_16(gate_row + ((piece ^ (g & 1)) << 4));
      const uint4 v1 = load_shared_16(gate_row + (((piece + 1) ^ (g & 1)) << 4));
      uint32_t term[3][4];
      const uint2 pairs[4] = {{v0.x, v0.y}, {v0.z, v0.w}, {v1.x, v1.y}, {v1.z, v1.w}};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        split_in_three(__uint_as_float(pairs[k].x), __uint_as_float(pairs[k].y), term[0][k],
                       term[1][k], term[2][k]);
      }
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const uint32_t row =
            stage + (m * 16 + g) * (kDepth * 2) + (((half * 4 + t) ^ ((g & 1) << 2)) << 4);
        const uint4 low = load_shared_16(row);
        const uint4 high = load_shared_16(row + 8 * kDepth * 2);
        const uint32_t first[4] = {low.x, high.x, low.y, high.y};
        const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int s = 2; s >= 0; --s) {
          const uint32_t b_first[2] = {term[s][0], term[s][1]};
          const uint32_t b_second[2] = {term[s][2], term[s][3]};
          mma_m16n8k16(acc[m], first, b_first);
          mma_m16n8k16(acc[m], second, b_second);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[m][i] += acc[m][i];
    }
  }

  const int width = job.text.experts + job.vision.experts;
  const int before = is_vision ? job.text.experts : 0;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = first_token + m * 16 + g + (i / 2) * 8;
      const int expert = first_expert + warp * 8 + 2 * t + i % 2;
      if (token < job.tokens && expert < gate.experts) {
        logits[static_cast<size_t>(token) * width + before + expert] = sum[m][i];
      }
    }
  }
}

// A warp for each token.
template <int kPerLane>
__global__ void __launch_bounds__(kThreads)
    route_choose(const __grid_constant__ RouteJob job, const float* logits) {
  pdl_trigger();
  pdl_wait();
  if (blockIdx.x == 0 && threadIdx.x < job.num_tickets) job.tickets[threadIdx.x] = 0;
  const int token = blockIdx.x * kWarps + threadIdx.x / 32;
  if (token >= job.tokens) return;
  const bool is_vision = job.is_vision && job.is_vision[token];
  const int width = job.text.experts + job.vision.experts;
  const int lane = threadIdx.x % 32;
  const Gate& gate = is_vision ? job.vision : job.text;
  logits += static_cast<size_t>(token) * width + (is_vision ? job.text.experts : 0);
  float mine[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    mine[i] = lane + i * 32 < gate.experts ? logits[lane + i * 32] : -INFINITY;
  }
  int id;
  float weight;
  choose<kPerLane>(job, gate, gate.bias, mine, id, weight);
  if (lane < job.slots()) {
    job.ids[static_cast<size_t>(token) * job.slots() + lane] = id;
    job.weights[static_cast<size_t>(token) * job.slots() + lane] = weight;
  }
}

__device__ __forceinline__ void run_of_warp(const RouteJob& job, int& first, int& last) {
  const int pairs = job.tokens * job.slots();
  const int run = kSortTokens * job.slots() / kWarps;
  first = min(static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32) * run, pairs);
  last = min(first + run, pairs);
}

// counts [blocks, groups]: pairs of each group in each block. Shared: [warps][groups] ints.
__global__ void __launch_bounds__(kThreads)
    route_count(const __grid_constant__ RouteJob job, int* counts) {
  extern __shared__ int count_shared[];
  pdl_trigger();
  for (int i = threadIdx.x; i < kWarps * job.groups; i += kThreads) count_shared[i] = 0;
  pdl_wait();
  __syncthreads();
  int first, last;
  run_of_warp(job, first, last);
  count_run(job.ids, first, last, count_shared + threadIdx.x / 32 * job.groups);
  __syncthreads();
  for (int g = threadIdx.x; g < job.groups; g += kThreads) {
    int sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += count_shared[w * job.groups + g];
    counts[static_cast<size_t>(blockIdx.x) * job.groups + g] = sum;
  }
}

// counts become each block's first position inside the group; offsets. One block, a warp for a group.
__global__ void __launch_bounds__(1024)
    route_scan(const __grid_constant__ RouteJob job, int* counts, int blocks) {
  extern __shared__ int scan_shared[];  // totals [groups]
  pdl_trigger();
  pdl_wait();
  const int lane = threadIdx.x % 32;
  for (int g = threadIdx.x / 32; g < job.groups; g += 32) {
    int sum = 0;
#pragma unroll 4
    for (int base = 0; base < blocks; base += 32) {
      const int b = base + lane;
      const size_t index = static_cast<size_t>(b) * job.groups + g;
      int scan = b < blocks ? counts[index] : 0;
      const int own = scan;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(0xffffffffu, scan, step);
        if (lane >= step) scan += below;
      }
      if (b < blocks) counts[index] = sum + scan - own;
      sum += __shfl_sync(0xffffffffu, scan, 31);
    }
    if (lane == 0) scan_shared[g] = sum;
  }
  __syncthreads();
  if (threadIdx.x < 32) scan_totals(scan_shared, job.groups, job.offsets);
}

__global__ void __launch_bounds__(kThreads)
    route_place(const __grid_constant__ RouteJob job, const int* counts) {
  extern __shared__ int place_shared[];
  pdl_trigger();
  for (int i = threadIdx.x; i < kWarps * job.groups; i += kThreads) place_shared[i] = 0;
  pdl_wait();
  __syncthreads();
  int first, last;
  run_of_warp(job, first, last);
  int* mine = place_shared + threadIdx.x / 32 * job.groups;
  count_run(job.ids, first, last, mine);
  __syncthreads();
  for (int g = threadIdx.x; g < job.groups; g += kThreads) {
    int next = job.offsets[g] + counts[static_cast<size_t>(blockIdx.x) * job.groups + g];
    for (int w = 0; w < kWarps; ++w) {
      const int count = place_shared[w * job.groups + g];
      place_shared[w * job.groups + g] = next;
      next += count;
    }
  }
  __syncthreads();
  place_run(job.ids, first, last, mine, job.order);
}

}  // namespace

void route_logits_and_choice(Context& context, const RouteJob& job) {
  const int width = job.text.experts + job.vision.experts;
  Tensor logits = context.empty({job.tokens, width}, DType::kF32);
  const int tiles = (job.text.experts + kExperts - 1) / kExperts +
                    (job.vision.experts + kExperts - 1) / kExperts;
  launch(context, route_logits, dim3((job.tokens + kTokens - 1) / kTokens, tiles), kThreads,
         kStages * kStageBytes, job, logits.ptr<float>());
  const bool narrow = std::max(job.text.experts, job.vision.experts) <= 64;
  launch(context, narrow ? route_choose<2> : route_choose<kMaxExperts / 32>,
         (job.tokens + kWarps - 1) / kWarps, kThreads, 0, job, logits.ptr<float>());
}

void route_sort_many(Context& context, const RouteJob& job) {
  const int blocks = (job.tokens + kSortTokens - 1) / kSortTokens;
  Tensor counts = context.empty({blocks, job.groups}, DType::kI32);
  const size_t shared = static_cast<size_t>(kWarps) * job.groups * sizeof(int);
  launch(context, route_count, blocks, kThreads, shared, job, counts.ptr<int>());
  launch(context, route_scan, 1, 1024, job.groups * sizeof(int), job, counts.ptr<int>(), blocks);
  launch(context, route_place, blocks, kThreads, shared, job, counts.ptr<int>());
}

}  // namespace ernie
