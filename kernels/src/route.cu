// The router of a step, for up to kClusterTokens tokens: clusters of eight blocks divide the columns,
// multiply on the tensor cores and meet in each other's shared memory, where the experts are chosen;
// the last block to come there sorts the pairs. A float32 gate is the sum of three bf16 terms, which
// hold its 24 bits: x · gate = x · high + x · middle + x · low. More tokens: route_large.cu.
#include "ernie/route.h"

#include <cooperative_groups.h>

#include <algorithm>

#include "ernie/launch.h"
#include "ernie/mma.cuh"
#include "ernie/pdl.cuh"
#include "ernie/route.cuh"
#include "ernie/route_few.h"
#include "ernie/route_large.h"
#include "ernie/vector.cuh"

// A compilation for older devices leaves the cluster kernel empty; it is not launched there.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define ROUTE_CLUSTER(size) __cluster_dims__(size, 1, 1)
#else
#define ROUTE_CLUSTER(size)
#endif

namespace ernie {
namespace {

constexpr int kThreads = 256;
constexpr int kCluster = 8;
constexpr int kTokens = 8;  // that a cluster multiplies at a time, one for each of its blocks
constexpr int kClusterTokens = 512;
constexpr int kTileExperts = 64;
[[maybe_unused]] constexpr int kExpertWarps = kTileExperts / 16;
static_assert(kTokens * kMaxSlots == kThreads, "a thread for each pair");
constexpr int kParts = kCluster * (kThreads / 32) / kExpertWarps;  // of the columns
[[maybe_unused]] constexpr int kSteps = 5;  // of 32 gate columns, held by a warp
constexpr int kSortThreads = 512;
constexpr int kSortPairs = 4096;  // of one block

__host__ __device__ constexpr int padded_experts(int experts) {
  return (experts + kTileExperts - 1) / kTileExperts * kTileExperts;
}

// Any number of pairs that `scratch` holds with kBlock / 32 + 2 ints for each group and one more.
template <int kBlock>
__device__ void sort_pairs(const RouteJob& job, int* scratch) {
  constexpr int kBlockWarps = kBlock / 32;
  const int groups = job.groups;
  const int pairs = job.tokens * job.slots();
  const int warp = threadIdx.x / 32;
  int* counts = scratch;  // [warps][groups]
  int* totals = counts + kBlockWarps * groups;
  int* starts = totals + groups;
  int* ids = starts + groups + 1;
  for (int i = threadIdx.x; i < kBlockWarps * groups; i += kBlock) counts[i] = 0;
  for (int p = threadIdx.x; p < pairs; p += kBlock) ids[p] = __ldcg(job.ids + p);
  __syncthreads();
  const int run = (pairs + kBlockWarps - 1) / kBlockWarps;
  const int first = min(warp * run, pairs);
  const int last = min(first + run, pairs);
  count_run(ids, first, last, counts + warp * groups);
  __syncthreads();
  for (int g = threadIdx.x; g < groups; g += kBlock) {
    int sum = 0;
    for (int w = 0; w < kBlockWarps; ++w) {
      const int count = counts[w * groups + g];
      counts[w * groups + g] = sum;
      sum += count;
    }
    totals[g] = sum;
  }
  __syncthreads();
  if (warp == 0) scan_totals(totals, groups, starts);
  __syncthreads();
  for (int i = threadIdx.x; i < kBlockWarps * groups; i += kBlock) counts[i] += starts[i % groups];
  for (int g = threadIdx.x; g <= groups; g += kBlock) job.offsets[g] = starts[g];
  __syncthreads();
  place_run(ids, first, last, counts + warp * groups, job.order);
}

size_t sort_bytes(const RouteJob& job, int threads) {
  return ((threads / 32 + 2) * job.groups + 1 + job.tokens * job.slots()) * sizeof(int);
}

// Grid: kCluster blocks, clusters. A cluster serves job.cluster_tokens tokens, eight at a time. Its
// blocks divide the columns, and so do the two halves of a block; a warp of a half has 16 experts.
// The sums of a token meet in the block with the token's number modulo kCluster.
template <int kPerLane>
__global__ void ROUTE_CLUSTER(kCluster) __launch_bounds__(kThreads)
    route_cluster(const __grid_constant__ RouteJob job) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) char shared[];
  __shared__ __align__(16) int ids[kTokens * kMaxSlots];
  __shared__ float biases[2][kMaxExperts];
  __shared__ bool is_last;
  namespace cg = cooperative_groups;
  pdl_trigger();
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int part = rank * 2 + warp / kExpertWarps;  // of the columns
  const int text_width = padded_experts(job.text.experts);
  const int width = text_width + padded_experts(job.vision.experts);
  const int first_token = blockIdx.y * job.cluster_tokens;
  const int tokens = min(job.cluster_tokens, job.tokens - first_token);
  const int steps = (job.depth + kParts * 32 - 1) / (kParts * 32);  // of 32 columns, of a part
  const int first_column = part * steps * 32;

  // Lane (g, t) takes columns 8t … 8t + 7 of each step, of experts g and g + 8 and of token g.
  float4 gates[kSteps][2][2];
  int loaded = -1;
  const auto load_gates = [&](int tile, int base) {
    const bool is_text = tile * kTileExperts < text_width;
    const Gate& gate = is_text ? job.text : job.vision;
    const int first = tile * kTileExperts - (is_text ? 0 : text_width) + warp % kExpertWarps * 16;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int column = first_column + (base + i) * 32 + 8 * t;
      const bool is_mine = base + i < steps && column < job.depth;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int expert = first + half * 8 + g;
        const float4* row = reinterpret_cast<const float4*>(
            gate.weight + static_cast<size_t>(expert) * job.depth + column);
        const bool valid = is_mine && expert < gate.experts;
        gates[i][half][0] = valid ? row[0] : float4{0, 0, 0, 0};
        gates[i][half][1] = valid ? row[1] : float4{0, 0, 0, 0};
      }
    }
    loaded = tile * steps + base;
  };
  load_gates(0, 0);
  for (int e = threadIdx.x; e < kMaxExperts; e += kThreads) {
    if (e < job.text.experts) biases[0][e] = job.text.bias[e];
    if (e < job.vision.experts) biases[1][e] = job.vision.bias[e];
  }
  if (threadIdx.x < kTokens * kMaxSlots) ids[threadIdx.x] = INT_MAX;
  cluster.sync();  // all blocks are there before anyone writes to another
  pdl_wait();

  const int local = warp * kTokens + rank;  // token of this warp, when the experts are chosen
  const bool is_vision =
      job.is_vision && local < tokens && job.is_vision[first_token + local] != 0;
  float* sums = reinterpret_cast<float*>(shared);  // [token groups][kParts][width]
  for (int tile = 0; tile < width / kTileExperts; ++tile) {
    for (int group = 0; group * kTokens < tokens; ++group) {
      float acc[3][4] = {};
      for (int base = 0; base < steps; base += kSteps) {
        const int token = min(first_token + group * kTokens + g, job.tokens - 1);
        uint4 x[kSteps];
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          const int column = first_column + (base + i) * 32 + 8 * t;
          const bool valid = base + i < steps && column < job.depth;
          x[i] = valid ? load_16(job.x + static_cast<size_t>(token) * job.depth + column)
                       : uint4{0, 0, 0, 0};
        }
        if (loaded != tile * steps + base) load_gates(tile, base);
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          uint32_t term[3][2][4];  // of experts g and g + 8
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float4 v = gates[i][half][0];
            const float4 w = gates[i][half][1];
            const float2 pairs[4] = {{v.x, v.y}, {v.z, v.w}, {w.x, w.y}, {w.z, w.w}};
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              split_in_three(pairs[k].x, pairs[k].y, term[0][half][k], term[1][half][k],
                             term[2][half][k]);
            }
          }
          const uint32_t b_first[2] = {x[i].x, x[i].y};
          const uint32_t b_second[2] = {x[i].z, x[i].w};
#pragma unroll
          for (int s = 0; s < 3; ++s) {
            const uint32_t first[4] = {term[s][0][0], term[s][1][0], term[s][0][1], term[s][1][1]};
            const uint32_t second[4] = {term[s][0][2], term[s][1][2], term[s][0][3],
                                        term[s][1][3]};
            mma_m16n8k16(acc[s], first, b_first);
            mma_m16n8k16(acc[s], second, b_second);
          }
        }
      }
      const int expert = tile * kTileExperts + warp % kExpertWarps * 16 + g;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = 2 * t + i;
        if (group * kTokens + token >= tokens) continue;
        float* target = cluster.map_shared_rank(sums, token) + (group * kParts + part) * width;
        target[expert] = acc[2][i] + acc[1][i] + acc[0][i];
        target[expert + 8] = acc[2][2 + i] + acc[1][2 + i] + acc[0][2 + i];
      }
    }
  }
  cluster.sync();

  const int slots = job.slots();
  if (local < tokens) {
    const int token = first_token + local;
    const Gate& gate = is_vision ? job.vision : job.text;
    const float* parts = sums + warp * kParts * width + (is_vision ? text_width : 0);
    float logits[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int e = lane + i * 32;
      logits[i] = -INFINITY;
      if (e >= gate.experts) continue;
      logits[i] = 0.f;
#pragma unroll
      for (int p = 0; p < kParts; ++p) logits[i] += parts[p * width + e];
    }
    int id;
    float weight;
    choose<kPerLane>(job, gate, biases[is_vision], logits, id, weight);
    if (lane < slots) {
      job.ids[token * slots + lane] = id;
      job.weights[token * slots + lane] = weight;
      if (job.tokens <= kTokens) cluster.map_shared_rank(ids, 0)[rank * slots + lane] = id;
    }
  }
  if (blockIdx.y == 0 && rank == 0 && threadIdx.x < job.num_tickets) job.tickets[threadIdx.x] = 0;
  if (job.tokens <= kTokens) {
    if (job.tokens > 1) cluster.sync();
    if (rank > 0) return;
    __syncthreads();
    sort_few<kThreads>(job, ids, job.tokens * slots);
    return;
  }
  // The last block sorts.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(job.arrivals, 1) == static_cast<int>(gridDim.x * gridDim.y) - 1;
    if (is_last) *job.arrivals = 0;
    __threadfence();
  }
  __syncthreads();
  if (is_last) sort_pairs<kThreads>(job, reinterpret_cast<int*>(shared));
#endif
}

// For tokens whose experts other kernels chose.
__global__ void __launch_bounds__(kSortThreads) route_sort(const __grid_constant__ RouteJob job) {
  extern __shared__ __align__(16) char shared[];
  pdl_trigger();
  pdl_wait();
  sort_pairs<kSortThreads>(job, reinterpret_cast<int*>(shared));
}

// The code that would run was compiled for clusters.
bool has_clusters(void (*kernel)(RouteJob)) {
  cudaFuncAttributes attributes{};
  ERNIE_CUDA(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)));
  return attributes.ptxVersion >= 90;
}

void check_gate(const Tensor& gate, const Tensor& bias, const char* gate_name,
                const char* bias_name, int64_t depth, int top_k) {
  expect(gate, gate_name, DType::kF32, {-1, depth});
  expect(bias, bias_name, DType::kF32, {gate.size(0)});
  if (gate.size(0) < 1 || gate.size(0) > kMaxExperts) {
    fail(std::string(gate_name) + " has " + std::to_string(gate.size(0)) +
         " experts, expected 1 to " + std::to_string(kMaxExperts));
  }
  if (top_k < 1 || top_k > gate.size(0)) {
    fail("top_k is " + std::to_string(top_k) + ", expected 1 to the " +
         std::to_string(gate.size(0)) + " experts of " + gate_name);
  }
}

Gate make_gate(const Tensor& gate, const Tensor& bias, int first_group) {
  return {gate.ptr<float>(), bias.ptr<float>(), static_cast<int>(gate.size(0)), first_group};
}

}  // namespace

Routing make_routing(const Tensor& ids, const Tensor& weights, const Tensor& order,
                     const Tensor& offsets, int num_experts, int num_shared) {
  expect(ids, "ids", DType::kI32, {-1, -1});
  expect(weights, "weights", DType::kF32, {ids.size(0), ids.size(1)});
  expect(order, "order", DType::kI32, {ids.numel()});
  expect(offsets, "offsets", DType::kI32, {-1});
  if (num_experts < 0 || num_shared < 0 || num_experts + num_shared >= offsets.size(0)) {
    fail(std::to_string(num_experts) + " experts and " + std::to_string(num_shared) +
         " shared ones do not fit " + std::to_string(offsets.size(0)) + " offsets");
  }
  Context& context = ids.context();
  Tensor tickets = context.empty({Routing::kTickets}, DType::kI32);
  ERNIE_CUDA(cudaMemsetAsync(tickets.data(), 0, tickets.nbytes(), context.stream()));
  return {ids, weights, order, offsets, tickets, num_experts, num_shared};
}

Routing moe_route(const Tensor& x, const Tensor& gate, const Tensor& bias, int top_k,
                  float norm_min, int num_shared, const Tensor& vision_gate,
                  const Tensor& vision_bias, const Tensor& is_vision) {
  expect(x, "x", DType::kBF16, {-1, -1});
  const int64_t tokens = x.size(0);
  const int64_t depth = x.size(1);
  if (tokens < 1 || depth < 8 || depth % 8 != 0 || depth > 8192) {
    fail("x is " + x.describe() + ", expected rows of a multiple of 8 up to 8192");
  }
  check_gate(gate, bias, "gate", "bias", depth, top_k);
  const bool has_vision = vision_gate.defined();
  if (vision_bias.defined() != has_vision || is_vision.defined() != has_vision) {
    fail("vision_gate, vision_bias and is_vision must be given together");
  }
  if (num_shared < 0 || top_k + num_shared > kMaxSlots) {
    fail("top_k + num_shared is " + std::to_string(top_k + num_shared) + ", expected at most " +
         std::to_string(kMaxSlots));
  }
  RouteJob job{};
  const int experts = static_cast<int>(gate.size(0));
  job.text = make_gate(gate, bias, 0);
  if (has_vision) {
    check_gate(vision_gate, vision_bias, "vision_gate", "vision_bias", depth, top_k);
    expect(is_vision, "is_vision", DType::kU8, {tokens});
    job.vision = make_gate(vision_gate, vision_bias, experts + num_shared);
    job.is_vision = is_vision.ptr<uint8_t>();
  }
  const int slots = top_k + num_shared;
  Context& context = x.context();
  Routing routing;
  routing.num_experts = experts;
  routing.num_shared = num_shared;
  job.groups = experts + num_shared + job.vision.experts;
  routing.ids = context.empty({tokens, slots}, DType::kI32);
  routing.weights = context.empty({tokens, slots}, DType::kF32);
  routing.order = context.empty({tokens * slots}, DType::kI32);
  routing.offsets = context.empty({job.groups + 1}, DType::kI32);
  routing.tickets = context.empty({Routing::kTickets}, DType::kI32);
  job.x = x.ptr<bf16>();
  job.tokens = static_cast<int>(tokens);
  job.depth = static_cast<int>(depth);
  job.top_k = top_k;
  job.num_shared = num_shared;
  job.first_shared = experts;
  job.norm_min = norm_min;
  job.ids = routing.ids.ptr<int>();
  job.weights = routing.weights.ptr<float>();
  job.order = routing.order.ptr<int>();
  job.offsets = routing.offsets.ptr<int>();
  job.tickets = routing.tickets.ptr<int>();
  job.num_tickets = Routing::kTickets;

  if (route_few(context, job)) return routing;
  const bool narrow = std::max(job.text.experts, job.vision.experts) <= 64;
  const auto cluster = narrow ? route_cluster<2> : route_cluster<kMaxExperts / 32>;
  if (tokens <= kClusterTokens && has_clusters(cluster)) {
    // One wave of clusters: as many tokens to each as that takes, and a cluster can choose for. A
    // cluster lies within one of the device's parts, whose last multiprocessors may be too few for
    // another: on an H200 16 clusters of 8 take 15 us where 14 take 10.
    const int groups = (job.tokens + kTokens - 1) / kTokens;
    const int fitting = std::max(1, context.sm_count() / kCluster - 2);
    const int waves = std::min((groups + fitting - 1) / fitting, kThreads / 32);
    job.cluster_tokens = waves * kTokens;
    const int clusters = (groups + waves - 1) / waves;
    const int width = padded_experts(job.text.experts) + padded_experts(job.vision.experts);
    size_t shared = static_cast<size_t>(waves) * kParts * width * sizeof(float);
    if (job.tokens > kTokens) {
      shared = std::max(shared, sort_bytes(job, kThreads));
      job.arrivals = static_cast<int*>(context.workspace(sizeof(int)));
    }
    launch(context, cluster, dim3(kCluster, clusters), kThreads, shared, job);
    return routing;
  }
  route_logits_and_choice(context, job);
  if (job.tokens * slots <= kSortPairs) {
    launch(context, route_sort, 1, kSortThreads, sort_bytes(job, kSortThreads), job);
  } else {
    route_sort_many(context, job);
  }
  return routing;
}

}  // namespace ernie
