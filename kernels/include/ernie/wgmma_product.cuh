// The Hopper kernel of all large products: out = epilogue(rows · weights^T).
//
// A block computes tiles of 128 rows x 256 weight rows (kUp: 128 gate and 128 up rows), K in steps
// of 64 through a ring of four stages in shared memory, 48 KiB each, in the 128-byte swizzle:
//
//   warpgroup 0, producer    waits for a stage to be empty and fills it: weights by TMA, rows by TMA
//                            too (one thread works) or, for kUp, gathered by cp.async (all do)
//   warpgroups 1, 2          multiply 64 rows x 256 each from the full stages, accumulators in
//                            registers, and store them
//
// full[s]: the stage's bytes (and, for kUp, the gathering warps) have come. empty[s]: all consumer
// warps of the cluster are done with it. Blocks run in clusters of two that walk the work list
// together: tiles above one another share the weights, each block fetches one half of them and the
// copy engine writes it to both, which is why a stage is empty only when both blocks say so.
#pragma once

#include "ernie/hopper.cuh"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/product.cuh"
#include "ernie/tensor_map.h"

namespace ernie::wgmma {

constexpr int kTileRows = 128;
constexpr int kTileWeights = 256;
constexpr int kStepK = 64;
constexpr int kStages = 4;
constexpr int kCluster = 2;
constexpr int kConsumers = 2;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kLead = 2;                // steps that the first consumer is ahead of the second
constexpr int kBox = 128;               // rows of one TMA box
constexpr int kBoxBytes = kBox * kStepK * 2;
constexpr int kRowBytes = kTileRows * kStepK * 2;
constexpr int kWeightBytes = kTileWeights * kStepK * 2;
constexpr int kStageBytes = kRowBytes + kWeightBytes;
constexpr int kBarrierBytes = 2 * kStages * 8;
// Of 168 a thread at the start. Gathering takes some, the dense epilogue most.
template <Job kJob>
constexpr int kProducerRegisters = kJob == Job::kUp ? 72 : 40;
template <Job kJob>
constexpr int kConsumerRegisters = (3 * 168 - kProducerRegisters<kJob>) / 2;
static_assert(kTileWeights == 2 * kBox && kTileRows == kBox, "a block's half is one box");

using List = WorkList<kTileRows, kCluster>;

inline size_t shared_bytes(int num_groups) {
  return kStages * kStageBytes + kBarrierBytes + List::shared_ints(num_groups) * sizeof(int);
}

#if defined(ERNIE_HOPPER)

struct Shared {
  uint32_t stages;
  uint32_t barriers;
  __device__ uint32_t rows(int stage) const { return stages + stage * kStageBytes; }
  __device__ uint32_t weights(int stage) const { return rows(stage) + kRowBytes; }
  __device__ uint32_t full(int stage) const { return barriers + stage * 8; }
  __device__ uint32_t empty(int stage) const { return barriers + (kStages + stage) * 8; }
};

// Place in the ring; producer and consumers each keep one and move in step.
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// Fetches the weights of one step, 32 KiB on full[stage] of this block. One thread.
template <Job kJob>
__device__ __forceinline__ void fetch_weights(const Shared& shared, const CUtensorMap& map,
                                              const Product& p, const Tile& tile, int stage, int k,
                                              int rank) {
  const int first = kJob == Job::kUp ? tile.group * 2 * p.columns + tile.column * kBox
                                     : tile.group * p.columns + tile.column * kTileWeights;
  const int second = first + (kJob == Job::kUp ? p.columns : kBox);
  const uint32_t to = shared.weights(stage), barrier = shared.full(stage);
  if (tile.above) {
    tma_load_multicast(to + rank * kBoxBytes, map, barrier, k, rank == 0 ? first : second, 3);
  } else {
    tma_load(to, map, barrier, k, first);
    tma_load(to + kBoxBytes, map, barrier, k, second);
  }
}

// One thread fills the stages.
template <Job kJob>
__device__ void produce(const Shared& shared, const CUtensorMap& rows, const CUtensorMap& weights,
                        const Product& p, List list, int cluster, int clusters, int rank) {
  Ring ring;
  for (int item = cluster; item < list.count(); item += clusters) {
    const Tile tile = list.tile(item, rank);
    for (int k = 0; k < p.k; k += kStepK, ring.advance()) {
      mbarrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      mbarrier_arrive_expect(shared.full(ring.stage), kStageBytes);
      tma_load(shared.rows(ring.stage), rows, shared.full(ring.stage), k, tile.first_row);
      fetch_weights<kJob>(shared, weights, p, tile, ring.stage, k, rank);
    }
  }
}

// A warpgroup fills the stages. Its thread t copies the 16-byte chunk t % 8 of rows t / 8 + 16 i. A
// stage is reported one step later, when its copies have had time to come.
__device__ __forceinline__ void produce_gathered(const Shared& shared, const CUtensorMap& weights,
                                                 const Product& p, List list, int cluster,
                                                 int clusters, int rank) {
  constexpr int kRowsPerThread = kTileRows / 16;
  const int thread = threadIdx.x % 128;
  const int chunk = thread % 8, row = thread / 8;
  const uint32_t place = row * 128 + ((chunk ^ (row % 8)) * 16);
  Ring ring;
  int unreported = -1;  // stage
  const auto report = [&] {
    fence_proxy_async();
    __syncwarp();
    if (thread % 32 == 0) mbarrier_arrive(shared.full(unreported));
  };
  for (int item = cluster; item < list.count(); item += clusters) {
    const Tile tile = list.tile(item, rank);
    int tokens[kRowsPerThread];
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i) {
      const int r = row + 16 * i;
      tokens[i] = r < tile.rows ? p.order[tile.first_row + r] / p.slots : -1;
    }
    for (int k = 0; k < p.k; k += kStepK, ring.advance()) {
      mbarrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      if (thread == 0) {
        mbarrier_arrive_expect(shared.full(ring.stage), kWeightBytes);
        fetch_weights<Job::kUp>(shared, weights, p, tile, ring.stage, k, rank);
      }
      const int column = k + chunk * 8;
      const bool inside = column < p.k;
      const bf16* source = p.x + (inside ? column : 0);
      const uint32_t to = shared.rows(ring.stage) + place;
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i) {
        const int token = max(tokens[i], 0);
        cp_async_16(to + i * 16 * 128, source + static_cast<int64_t>(token) * p.k,
                    inside && tokens[i] >= 0);
      }
      cp_async_commit();
      if (unreported >= 0) {
        cp_async_wait<1>();
        report();
      }
      unreported = ring.stage;
    }
  }
  if (unreported >= 0) {
    cp_async_wait<0>();
    report();
  }
}

// Tells both blocks of the cluster that this warp is done with the stage.
__device__ __forceinline__ void release(const Shared& shared, int stage) {
  const int lane = threadIdx.x % 32;
  if (lane < kCluster) mbarrier_arrive_cluster(shared.empty(stage), lane);
}

// Where this thread's two rows of the tile go in the result; -1 for rows that do not exist.
template <Job kJob>
__device__ __forceinline__ void result_rows(const Product& p, const Tile& tile, int half,
                                            int (&rows)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = 64 * half + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * h;
    rows[h] = -1;
    const int row = tile.first_row + r;
    if (r < tile.rows) rows[h] = kJob == Job::kDown ? p.order[row] : row;
  }
}

// activation(acc + bias) + residual, each a pass over the registers that is skipped where it has
// nothing to do: tests per element would make the code longer than the instruction cache.
__device__ __forceinline__ void finish_dense(const Product& p, int first_column,
                                             const int (&rows)[2], bool activated,
                                             float (&acc)[128]) {
  const int first = first_column + 2 * (threadIdx.x % 4);
  if (p.bias) {
#pragma unroll
    for (int b = 0; b < 32; ++b) {
      if (first + 8 * b < p.columns) {
        const uint32_t bias = *reinterpret_cast<const uint32_t*>(p.bias + first + 8 * b);
        acc[4 * b] += low_float(bias), acc[4 * b + 1] += high_float(bias);
        acc[4 * b + 2] += low_float(bias), acc[4 * b + 3] += high_float(bias);
      }
    }
  }
  if (activated && p.activation == Activation::kGelu) {
#pragma unroll
    for (int i = 0; i < 128; ++i) acc[i] = activate(acc[i], Activation::kGelu);
  } else if (activated) {
#pragma unroll
    for (int i = 0; i < 128; ++i) acc[i] = activate(acc[i], Activation::kQuickGelu);
  }
  if (p.residual) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bf16* from = p.residual + static_cast<int64_t>(rows[h]) * p.columns + first;
#pragma unroll
      for (int b = 0; b < 32; ++b) {
        if (rows[h] >= 0 && first + 8 * b < p.columns) {
          const uint32_t residual = *reinterpret_cast<const uint32_t*>(from + 8 * b);
          acc[4 * b + 2 * h] += low_float(residual);
          acc[4 * b + 2 * h + 1] += high_float(residual);
        }
      }
    }
  }
}

__device__ __forceinline__ void store_float(const Product& p, int first_column,
                                            const int (&rows)[2], const float (&acc)[128]) {
  const int first = first_column + 2 * (threadIdx.x % 4);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float* to = static_cast<float*>(p.out) + static_cast<int64_t>(rows[h]) * p.columns + first;
#pragma unroll
    for (int b = 0; b < 32; ++b) {
      if (rows[h] >= 0 && first + 8 * b < p.columns) {
        *reinterpret_cast<float2*>(to + 8 * b) =
            make_float2(acc[4 * b + 2 * h], acc[4 * b + 2 * h + 1]);
      }
    }
  }
}

template <Job kJob>
__device__ __forceinline__ void store(const Product& p, int column_tile, const int (&rows)[2],
                                      float (&acc)[128]) {
  constexpr int kBlocks = kJob == Job::kUp ? 16 : 32;  // of 8 columns
  const int first_column = column_tile * kBlocks * 8;
  if (kJob == Job::kDenseFloat) return store_float(p, first_column, rows, acc);
  if (kJob == Job::kDense || kJob == Job::kDenseActivated) {
    finish_dense(p, first_column, rows, kJob == Job::kDenseActivated, acc);
  }
  const int column = first_column + 8 * (threadIdx.x % 4);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    bf16* to = static_cast<bf16*>(p.out) + static_cast<int64_t>(rows[h]) * p.columns + column;
#pragma unroll
    for (int b = 0; b < kBlocks; b += 4) {
      uint32_t packed[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float low = acc[4 * (b + i) + 2 * h], high = acc[4 * (b + i) + 2 * h + 1];
        if (kJob == Job::kUp) {
          low = silu(low) * acc[64 + 4 * (b + i) + 2 * h];
          high = silu(high) * acc[64 + 4 * (b + i) + 2 * h + 1];
        }
        packed[i] = pack_2(low, high);
      }
      transpose_quad(packed);
      if (rows[h] >= 0 && column + 8 * b < p.columns) {
        store_16(to + 8 * b, make_uint4(packed[0], packed[1], packed[2], packed[3]));
      }
    }
  }
}

// A warpgroup multiplies its 64 rows of every tile; it only hands the stages back where none of
// them exists. The second one starts kLead steps later: one stores its results while the other
// still multiplies, and the one that comes back first finds the units free and gets its lead again.
template <Job kJob>
__device__ __forceinline__ void consume(const Shared& shared, const Product& p, List list,
                                        int cluster, int clusters, int rank, int half) {
  constexpr int kBarrier = 1;
  Ring ring;
  bool announces = half == 0;
  if (half == 1 && cluster < list.count()) named_barrier_sync<kBarrier, 128 * kConsumers>();
  for (int item = cluster; item < list.count(); item += clusters) {
    const Tile tile = list.tile(item, rank);
    if (tile.rows <= 64 * half) {
      for (int k = 0; k < p.k; k += kStepK, ring.advance()) {
        mbarrier_wait(shared.full(ring.stage), ring.parity);
        release(shared, ring.stage);
      }
      continue;
    }
    int rows[2];
    result_rows<kJob>(p, tile, half, rows);
    float acc[128];
    int previous = -1;
    for (int k = 0; k < p.k; k += kStepK, ring.advance()) {
      mbarrier_wait(shared.full(ring.stage), ring.parity);
      const uint64_t a = wgmma_descriptor(shared.rows(ring.stage) + half * 64 * 128);
      const uint64_t b = wgmma_descriptor(shared.weights(ring.stage));
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < kStepK / 16; ++step) {
        wgmma_m64n256k16(acc, a + step * kDescriptorK, b + step * kDescriptorK, k + step > 0);
      }
      wgmma_commit();
      if (announces && (k >= (kLead - 1) * kStepK || k + kStepK >= p.k)) {
        named_barrier_arrive<kBarrier, 128 * kConsumers>();
        announces = false;
      }
      if (previous >= 0) {
        wgmma_wait<1>();
        release(shared, previous);
      }
      previous = ring.stage;
    }
    wgmma_wait<0>();
    wgmma_fence_operands(acc);
    release(shared, previous);
    store<kJob>(p, tile.column, rows, acc);
  }
}

#endif  // ERNIE_HOPPER

// Grid: an even number of blocks, one per multiprocessor. `rows` is unused by kUp.
template <Job kJob>
__global__ void ERNIE_CLUSTER(kCluster) __launch_bounds__(kThreads, 1)
    product_kernel(const __grid_constant__ CUtensorMap rows,
                   const __grid_constant__ CUtensorMap weights, const __grid_constant__ Product p) {
#if defined(ERNIE_HOPPER)
  extern __shared__ __align__(1024) unsigned char memory[];
  const Shared shared{shared_address(memory), shared_address(memory) + kStages * kStageBytes};
  int* work = reinterpret_cast<int*>(memory + kStages * kStageBytes + kBarrierBytes);
  pdl_trigger();
  if (threadIdx.x == 0) {
    if (kJob != Job::kUp) prefetch_tensor_map(rows);
    prefetch_tensor_map(weights);
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(shared.full(stage), kJob == Job::kUp ? 5 : 1);
      mbarrier_init(shared.empty(stage), kCluster * kConsumers * 4);
    }
    mbarrier_fence_init();
  }
  pdl_wait();
  if (threadIdx.x < 32) List::build(p.groups, p.column_tiles, work);
  __syncthreads();
  cluster_sync();
  const List list(work, p.groups.num_groups, p.column_tiles);
  const int rank = static_cast<int>(cluster_rank());
  const int cluster = blockIdx.x / kCluster, clusters = gridDim.x / kCluster;
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    setmaxnreg_dec<kProducerRegisters<kJob>>();
    if (kJob == Job::kUp) {
      produce_gathered(shared, weights, p, list, cluster, clusters, rank);
    } else if (threadIdx.x == 0) {
      produce<kJob>(shared, rows, weights, p, list, cluster, clusters, rank);
    }
  } else {
    setmaxnreg_inc<kConsumerRegisters<kJob>>();
    consume<kJob>(shared, p, list, cluster, clusters, rank, warpgroup - 1);
  }
  __syncwarp();
  cluster_sync();  // the neighbour may still write here
#endif
}

// True where the kernel runs at all and its tiles are not mostly padding.
inline bool suits(const Context& context, int columns, int k) {
  return context.capability() == 90 && columns >= 64 && k >= kStepK;
}

template <Job kJob>
void run(Context& context, Product p) {
  p.column_tiles = kJob == Job::kUp ? (p.columns + kBox - 1) / kBox
                                    : (p.columns + kTileWeights - 1) / kTileWeights;
  const int weight_rows = p.groups.num_groups * p.columns * (kJob == Job::kUp ? 2 : 1);
  const CUtensorMap weights = matrix_map(p.w, weight_rows, p.k, kBox);
  const CUtensorMap rows =
      kJob == Job::kUp ? CUtensorMap{} : matrix_map(p.x, p.groups.rows, p.k, kTileRows);
  launch(context, product_kernel<kJob>, dim3(context.sm_count() / kCluster * kCluster),
         dim3(kThreads), shared_bytes(p.groups.num_groups), rows, weights, p);
}

}  // namespace ernie::wgmma
