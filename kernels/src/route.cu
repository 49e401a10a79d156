// The router of a step. Up to kClusterTokens tokens: clusters of eight blocks compute the logits of
// eight tokens in float32 and meet in the first block's shared memory, where the experts are chosen;
// the last cluster to come there sorts the pairs. More tokens: the tensor cores, see route_large.cu.
#include "ernie/route.h"

#include <cooperative_groups.h>

#include <algorithm>

#include "ernie/launch.h"
#include "ernie/mma.cuh"
#include "ernie/pdl.cuh"
#include "ernie/route.cuh"
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
[[maybe_unused]] constexpr int kWarps = kThreads / 32;
constexpr int kCluster = 8;
constexpr int kTokens = 8;          // of a cluster; a warp of its first block chooses for each
constexpr int kClusterTokens = 512;
[[maybe_unused]] constexpr int kPieces = 20;  // of 4 gate columns, held by each lane
constexpr int kSortThreads = 512;
constexpr int kSortPairs = 4096;  // of one block

// Up to 256 pairs: every pair counts those before it.
[[maybe_unused]] __device__ void sort_few(const RouteJob& job, const int* ids, int pairs) {
  const int p = threadIdx.x;
  if (p < pairs) {
    const int id = ids[p];
    int position = 0;
    for (int q = 0; q < pairs; ++q) position += ids[q] < id || (ids[q] == id && q < p);
    job.order[position] = p;
  }
  for (int g = threadIdx.x; g <= job.groups; g += kThreads) {
    int before = 0;
    for (int q = 0; q < pairs; ++q) before += ids[q] < g;
    job.offsets[g] = before;
  }
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

template <int kPerLane>
__global__ void ROUTE_CLUSTER(kCluster) __launch_bounds__(kThreads)
    route_cluster(const __grid_constant__ RouteJob job) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) char shared[];
  __shared__ float logits[kTokens][2 * kMaxExperts];
  __shared__ int ids[kTokens * kMaxSlots];
  namespace cg = cooperative_groups;
  pdl_trigger();
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int experts = job.text.experts + job.vision.experts;
  const int first_token = blockIdx.y * kTokens;
  const int tokens = min(kTokens, job.tokens - first_token);
  const int vectors = job.depth / 4;

  float4 piece[kPieces];
  const auto load_gate = [&](int e, int base) {
    const float* row = e < job.text.experts
                           ? job.text.weight + static_cast<size_t>(e) * job.depth
                           : job.vision.weight +
                                 static_cast<size_t>(e - job.text.experts) * job.depth;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int v = base + i * 32 + lane;
      piece[i] = v < vectors ? reinterpret_cast<const float4*>(row)[v] : float4{0, 0, 0, 0};
    }
  };
  int expert = rank * kWarps + warp;
  if (expert < experts) load_gate(expert, 0);
  cluster.sync();  // the first block is there before anyone writes to it
  pdl_wait();

  const int row_vectors = job.depth / 8;
  for (int i = threadIdx.x; i < tokens * row_vectors; i += kThreads) {
    cp_async_16(shared_address(shared) + i * 16,
                job.x + static_cast<size_t>(first_token) * job.depth + i * 8);
  }
  cp_async_commit();
  unsigned vision = 0;  // a bit for each token
  if (job.is_vision) {
    for (int j = 0; j < tokens; ++j) vision |= (job.is_vision[first_token + j] ? 1u : 0u) << j;
  }
  cp_async_wait<0>();
  __syncthreads();

  const uint2* x = reinterpret_cast<const uint2*>(shared);
  float* first_logits = cluster.map_shared_rank(&logits[0][0], 0);
  for (; expert < experts; expert += kCluster * kWarps) {
    const unsigned mine = expert < job.text.experts ? ~vision : vision;
    float acc[kTokens] = {};
    for (int base = 0; base < vectors; base += kPieces * 32) {
      if (base > 0 || expert >= kCluster * kWarps) load_gate(expert, base);
#pragma unroll
      for (int j = 0; j < kTokens; ++j) {
        if (j >= tokens || !(mine >> j & 1)) continue;
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
          const int v = min(base + i * 32 + lane, vectors - 1);  // past the end the gate is 0
          const uint2 four = x[j * vectors + v];
          acc[j] += low_float(four.x) * piece[i].x;
          acc[j] += high_float(four.x) * piece[i].y;
          acc[j] += low_float(four.y) * piece[i].z;
          acc[j] += high_float(four.y) * piece[i].w;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kTokens; ++j) {
      if (j >= tokens) continue;
      const float sum = warp_sum(acc[j]);
      if (lane == 0) first_logits[j * (2 * kMaxExperts) + expert] = sum;
    }
  }
  cluster.sync();
  if (rank != 0) return;

  const int slots = job.slots();
  if (warp < tokens) {
    const bool is_vision = vision >> warp & 1;
    int id;
    float weight;
    choose<kPerLane>(job, is_vision ? job.vision : job.text,
                     logits[warp] + (is_vision ? job.text.experts : 0), id, weight);
    if (lane < slots) {
      const int pair = (first_token + warp) * slots + lane;
      job.ids[pair] = id;
      job.weights[pair] = weight;
      ids[warp * slots + lane] = id;
    }
  }
  if (blockIdx.y == 0 && threadIdx.x < job.num_tickets) job.tickets[threadIdx.x] = 0;
  if (gridDim.y == 1) {
    __syncthreads();
    sort_few(job, ids, tokens * slots);
    return;
  }
  // The last cluster sorts.
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(job.arrivals, 1) == static_cast<int>(gridDim.y) - 1;
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

  const bool narrow = std::max(job.text.experts, job.vision.experts) <= 64;
  const auto cluster = narrow ? route_cluster<2> : route_cluster<kMaxExperts / 32>;
  if (tokens <= kClusterTokens && has_clusters(cluster)) {
    const int tiles = (job.tokens + kTokens - 1) / kTokens;
    size_t shared = static_cast<size_t>(std::min<int64_t>(tokens, kTokens)) * depth * 2;
    if (tiles > 1) {
      shared = std::max(shared, sort_bytes(job, kThreads));
      job.arrivals = static_cast<int*>(context.workspace(sizeof(int)));
    }
    launch(context, cluster, dim3(kCluster, tiles), kThreads, shared, job);
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
