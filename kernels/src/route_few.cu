// The router of up to four text tokens. A cluster of eight blocks divides the columns, holds the gates
// in registers before the tokens are there, and multiplies in float32: the tensor cores' three terms
// (route.cu) cost more than these tokens. Sums go to the block with the token's number, chosen
// experts to block 0, as messages that count on an mbarrier there: a cluster barrier takes longer.
#include "ernie/route_few.h"

#include <cooperative_groups.h>

#include "ernie/hopper.cuh"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/vector.cuh"

namespace ernie {
namespace {

constexpr int kThreads = 256;
constexpr int kCluster = 8;
constexpr int kTokens = 4;
constexpr int kExperts = 64;
constexpr int kExpertWarps = kExperts / 16;
constexpr int kParts = kCluster * (kThreads / 32) / kExpertWarps;  // of the columns
constexpr int kSteps = 5;  // of 32 columns, held by a warp
static_assert(kTokens * kMaxSlots <= kThreads, "a thread sorts each pair");

// Grid: one cluster. A warp has 16 experts and one of kParts parts of the columns; lane (g, t) =
// (lane / 4, lane % 4) has columns 8t … 8t + 7 of each step, of experts g and g + 8.
__global__ void ERNIE_CLUSTER(kCluster) __launch_bounds__(kThreads)
    route_few_tokens(const __grid_constant__ RouteJob job) {
#if defined(ERNIE_HOPPER)
  __shared__ float sums[kParts][kExperts];  // of this block's token
  __shared__ float biases[kExperts];
  __shared__ __align__(16) int ids[kTokens * kMaxSlots];
  __shared__ uint64_t sums_arrived, ids_arrived;  // mbarriers
  namespace cg = cooperative_groups;
  pdl_trigger();
  const cg::cluster_group cluster = cg::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int part = rank * (kParts / kCluster) + warp / kExpertWarps;
  const int steps = (job.depth + kParts * 32 - 1) / (kParts * 32);
  const int first_column = part * steps * 32 + 8 * t;
  const int slots = job.slots();

  float4 gates[kSteps][2][2];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int column = first_column + i * 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int expert = warp % kExpertWarps * 16 + half * 8 + g;
      const bool valid = i < steps && column < job.depth && expert < job.text.experts;
      const float4* row = reinterpret_cast<const float4*>(
          job.text.weight + static_cast<size_t>(valid ? expert : 0) * job.depth +
          (valid ? column : 0));
      gates[i][half][0] = valid ? row[0] : float4{0, 0, 0, 0};
      gates[i][half][1] = valid ? row[1] : float4{0, 0, 0, 0};
    }
  }
  if (threadIdx.x < job.text.experts) biases[threadIdx.x] = job.text.bias[threadIdx.x];
  if (threadIdx.x < kTokens * kMaxSlots) ids[threadIdx.x] = INT_MAX;
  if (threadIdx.x == 0) {
    mbarrier_init(shared_address(&sums_arrived), 1);
    mbarrier_init(shared_address(&ids_arrived), 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(shared_address(&sums_arrived), sizeof sums);
    mbarrier_arrive_expect(shared_address(&ids_arrived), job.tokens * slots * sizeof(int));
  }
  cluster.sync();  // all blocks are there, and their barriers, before anyone tells another
  pdl_wait();

  uint4 x[kSteps];
  const auto load = [&](int token) {
    const bf16* row = job.x + static_cast<size_t>(token) * job.depth + first_column;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const bool valid = i < steps && first_column + i * 32 < job.depth;
      x[i] = valid ? load_16(row + i * 32) : uint4{0, 0, 0, 0};
    }
  };
  load(0);
#pragma unroll 1
  for (int token = 0; token < job.tokens; ++token) {
    float sum[2][2] = {};  // of experts g and g + 8
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      float v[8];
      unpack_8(x[i], v);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float4 a = gates[i][half][0], b = gates[i][half][1];
        sum[half][0] += v[0] * a.x, sum[half][1] += v[1] * a.y;
        sum[half][0] += v[2] * a.z, sum[half][1] += v[3] * a.w;
        sum[half][0] += v[4] * b.x, sum[half][1] += v[5] * b.y;
        sum[half][0] += v[6] * b.z, sum[half][1] += v[7] * b.w;
      }
    }
    if (token + 1 < job.tokens) load(token + 1);
    const float low = sum[0][0] + sum[0][1], high = sum[1][0] + sum[1][1];
    const bool is_odd = t % 2 != 0;  // even lanes go on with expert g, odd ones with g + 8
    float total = (is_odd ? high : low) + __shfl_xor_sync(0xffffffffu, is_odd ? low : high, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    if (t < 2) {
      tell_cluster(shared_address(&sums[part][warp % kExpertWarps * 16 + t * 8 + g]),
                   shared_address(&sums_arrived), token, __float_as_uint(total));
    }
  }

  if (rank == 0 && threadIdx.x < job.num_tickets) job.tickets[threadIdx.x] = 0;
  if (warp == 0 && rank < job.tokens) {
    mbarrier_wait(shared_address(&sums_arrived), 0);
    __syncwarp();  // lanes may have left the wait one by one
    float logits[kExperts / 32];
#pragma unroll
    for (int i = 0; i < kExperts / 32; ++i) {
      const int e = lane + i * 32;
      float sum = 0.f;
#pragma unroll
      for (int p = 0; p < kParts; ++p) sum += sums[p][e];
      logits[i] = e < job.text.experts ? sum : -INFINITY;
    }
    int id;
    float weight;
    choose<kExperts / 32>(job, job.text, biases, logits, id, weight);
    if (lane < slots) {
      const int pair = rank * slots + lane;
      tell_cluster(shared_address(&ids[pair]), shared_address(&ids_arrived), 0,
                   static_cast<uint32_t>(id));
      job.ids[pair] = id;
      job.weights[pair] = weight;
    }
  }
  if (rank > 0) return;
  mbarrier_wait(shared_address(&ids_arrived), 0);
  sort_few<kThreads>(job, ids, job.tokens * slots);
#endif
}

// The code that would run was compiled for clusters.
bool has_clusters() {
  cudaFuncAttributes attributes{};
  ERNIE_CUDA(cudaFuncGetAttributes(&attributes,
                                   reinterpret_cast<const void*>(route_few_tokens)));
  return attributes.ptxVersion >= 90;
}

}  // namespace

bool route_few(Context& context, const RouteJob& job) {
  const bool fits = job.tokens <= kTokens && job.text.experts <= kExperts &&
                    job.vision.experts == 0 && job.depth <= kParts * kSteps * 32;
  if (!fits || !has_clusters()) return false;
  launch(context, route_few_tokens, kCluster, kThreads, 0, job);
  return true;
}

}  // namespace ernie
