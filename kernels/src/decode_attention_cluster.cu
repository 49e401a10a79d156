// Decode attention of few sequences on Hopper, head size 128: what counts is the time behind the
// kernel before, not the bytes. A block's work is in decode_cluster_block.cuh.
//
// How contexts of more than 1,024 keys are cut depends on the number of sequences, so that every split
// has a cluster at once.
//
// A block is small enough to come in beside two of the product before it, which is why its ring holds
// one tile a warp: its keys, values and pages are there before that product ends.
#include "ernie/context.h"
#include "ernie/decode_cluster_block.cuh"
#include "ernie/launch.h"

namespace ernie {
namespace {

template <Turn kTurn>
__global__ void ERNIE_CLUSTER(kDecodeCluster) __launch_bounds__(decode_cluster::kThreads, 3)
    decode_attention_cluster_kernel(const __grid_constant__ DecodeArguments p,
                                    const __grid_constant__ SplitRule rule) {
#if defined(ERNIE_HOPPER)
  __shared__ __align__(128) decode_cluster::Shared shared;
  decode_cluster::run_block<kTurn>(p, rule, shared);
#endif
}

}  // namespace

// Two blocks a multiprocessor, of which the device's parts may lack some for a whole cluster.
int decode_clusters(const Context& context) { return 2 * context.sm_count() / kDecodeCluster - 1; }

void decode_attention_cluster(Context& context, const DecodeArguments& p, Turn turn) {
  const SplitRule rule = decode_cluster::split_rule(p.most_splits);
  const unsigned blocks = decode_clusters(context) * kDecodeCluster;
  const auto start = [&](auto kernel) {
    launch(context, kernel, dim3(blocks), dim3(decode_cluster::kThreads), 0, p, rule);
  };
  switch (turn) {
    case Turn::kDone: return start(decode_attention_cluster_kernel<Turn::kDone>);
    case Turn::kNeighbours: return start(decode_attention_cluster_kernel<Turn::kNeighbours>);
    case Turn::kHalves: return start(decode_attention_cluster_kernel<Turn::kHalves>);
  }
}

}  // namespace ernie
