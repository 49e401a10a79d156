// The products on mma.sync: for sizes too small for the wgmma tiles and for devices without wgmma.
//
// A block of four warps computes tiles of 64 rows x 64 weight rows (kUp: 32 gate and 32 up rows), K
// in steps of 32 through three stages filled by cp.async. Shared rows are padded to 80 bytes, which
// keeps ldmatrix free of bank conflicts.
#include "ernie/launch.h"
#include "ernie/mma.cuh"
#include "ernie/pdl.cuh"
#include "ernie/product.cuh"

namespace ernie {
namespace {

constexpr int kTile = 64;
constexpr int kStepK = 32;
constexpr int kStages = 3;
constexpr int kThreads = 128;
constexpr int kBlocksPerMultiprocessor = 4;
constexpr int kRowBytes = 80;
constexpr int kOperandBytes = kTile * kRowBytes;

using List = WorkList<kTile, 1>;

template <Job kJob>
constexpr int kTileColumns = kJob == Job::kUp ? kTile / 2 : kTile;

// What a thread copies in each step: chunk t % 4 of the rows t / 4 and t / 4 + 32 of both operands.
// A null pointer stands for a row of zeros.
struct Sources {
  const bf16* x[2];
  const bf16* w[2];
};

template <Job kJob>
__device__ Sources sources(const Product& p, const Tile& tile) {
  Sources s;
  const int weight_rows = p.columns * (kJob == Job::kUp ? 2 : 1);
  const bf16* w = p.w + static_cast<int64_t>(tile.group) * weight_rows * p.k;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = threadIdx.x / 4 + 32 * i;
    int64_t row = tile.first_row + r;
    if (kJob == Job::kUp && r < tile.rows) row = p.order[row] / p.slots;
    s.x[i] = r < tile.rows ? p.x + row * p.k : nullptr;
    const int column = tile.column * kTileColumns<kJob> + r % kTileColumns<kJob>;
    const int weight_row = column + r / kTileColumns<kJob> * p.columns;
    s.w[i] = column < p.columns ? w + static_cast<int64_t>(weight_row) * p.k : nullptr;
  }
  return s;
}

__device__ void fetch(const Product& p, const Sources& s, uint32_t stage, int k) {
  const int chunk = threadIdx.x % 4;
  const int column = k + chunk * 8;
  const bool inside = column < p.k;
  const uint32_t to = stage + threadIdx.x / 4 * kRowBytes + chunk * 16;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool has_x = inside && s.x[i], has_w = inside && s.w[i];
    cp_async_16(to + i * 32 * kRowBytes, has_x ? s.x[i] + column : p.x, has_x);
    cp_async_16(to + kOperandBytes + i * 32 * kRowBytes, has_w ? s.w[i] + column : p.w, has_w);
  }
}

// The weight row of a tile where n8 blocks 2 q and 2 q + 1 of a warp begin. For kUp blocks 0, 1 are
// gate columns and 2, 3 the up columns that belong to them.
template <Job kJob>
__device__ int block_row(int warp_column, int q) {
  return kJob == Job::kUp ? q * 32 + warp_column * 16 : warp_column * 32 + q * 16;
}

template <Job kJob>
__device__ void multiply(uint32_t stage, float (&acc)[2][4][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp / 2 * 32 + lane % 16;
#pragma unroll
  for (int k = 0; k < kStepK / 16; ++k) {
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      ldmatrix_x4(a[i], stage + (row + 16 * i) * kRowBytes + k * 32 + lane / 16 * 16);
    }
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      const int weight = block_row<kJob>(warp % 2, q) + lane % 8 + lane / 16 * 8;
      uint32_t b[4];
      ldmatrix_x4(b, stage + kOperandBytes + weight * kRowBytes + k * 32 + lane / 8 % 2 * 16);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma_m16n8k16(acc[i][2 * q], a[i], {b[0], b[1]});
        mma_m16n8k16(acc[i][2 * q + 1], a[i], {b[2], b[3]});
      }
    }
  }
}

// activation(a + bias) + residual of two neighbouring columns.
template <Job kJob>
__device__ void finish_dense(const Product& p, int64_t at, int column, float& a, float& b) {
  if (p.bias) {
    const uint32_t bias = *reinterpret_cast<const uint32_t*>(p.bias + column);
    a += low_float(bias), b += high_float(bias);
  }
  if (kJob == Job::kDenseActivated) a = activate(a, p.activation), b = activate(b, p.activation);
  if (p.residual) {
    const uint32_t residual = *reinterpret_cast<const uint32_t*>(p.residual + at);
    a += low_float(residual), b += high_float(residual);
  }
}

template <Job kJob>
__device__ void store(const Product& p, const Tile& tile, const float (&acc)[2][4][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = warp / 2 * 32 + 16 * i + lane / 4 + 8 * h;
      if (r >= tile.rows) continue;
      int64_t row = tile.first_row + r;
      if (kJob == Job::kDown) row = p.order[row];
#pragma unroll
      for (int j = 0; j < (kJob == Job::kUp ? 2 : 4); ++j) {
        const int column = tile.column * kTileColumns<kJob> +
                           block_row<kJob>(warp % 2, j / 2) + j % 2 * 8 + lane % 4 * 2;
        if (column >= p.columns) continue;
        float low = acc[i][j][2 * h], high = acc[i][j][2 * h + 1];
        if (kJob == Job::kUp) {
          low = silu(low) * acc[i][2 + j][2 * h];
          high = silu(high) * acc[i][2 + j][2 * h + 1];
        }
        const int64_t at = row * p.columns + column;
        if (kJob == Job::kDense || kJob == Job::kDenseActivated) {
          finish_dense<kJob>(p, at, column, low, high);
        }
        if (kJob == Job::kDenseFloat) {
          *reinterpret_cast<float2*>(static_cast<float*>(p.out) + at) = make_float2(low, high);
        } else {
          *reinterpret_cast<uint32_t*>(static_cast<bf16*>(p.out) + at) = pack_2(low, high);
        }
      }
    }
  }
}

template <Job kJob>
__global__ void __launch_bounds__(kThreads) fallback_kernel(const __grid_constant__ Product p) {
  __shared__ __align__(16) unsigned char memory[kStages * 2 * kOperandBytes];
  extern __shared__ int work[];
  pdl_trigger();
  pdl_wait();
  if (threadIdx.x < 32) List::build(p.groups, p.column_tiles, work);
  __syncthreads();
  List list(work, p.groups.num_groups, p.column_tiles);
  const int steps = (p.k + kStepK - 1) / kStepK;
  const auto stage = [&](int step) {
    return shared_address(memory) + step % kStages * 2 * kOperandBytes;
  };
  for (int item = blockIdx.x; item < list.count(); item += gridDim.x) {
    const Tile tile = list.tile(item, 0);
    const Sources from = sources<kJob>(p, tile);
    float acc[2][4][4] = {};
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) fetch(p, from, stage(step), step * kStepK);
      cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
      cp_async_wait<kStages - 2>();
      __syncthreads();  // the step's copies are here, and everyone is done with the stage before
      const int next = step + kStages - 1;
      if (next < steps) fetch(p, from, stage(next), next * kStepK);
      cp_async_commit();
      multiply<kJob>(stage(step), acc);
    }
    __syncthreads();  // the next tile's first copies overwrite these stages
    store<kJob>(p, tile, acc);
  }
}

template <Job kJob>
void run(Context& context, Product p) {
  p.column_tiles = (p.columns + kTileColumns<kJob> - 1) / kTileColumns<kJob>;
  launch(context, fallback_kernel<kJob>, dim3(context.sm_count() * kBlocksPerMultiprocessor),
         dim3(kThreads), List::shared_ints(p.groups.num_groups) * sizeof(int), p);
}

}  // namespace

void run_fallback(Context& context, Job job, Product product) {
  switch (job) {
    case Job::kUp: return run<Job::kUp>(context, product);
    case Job::kDown: return run<Job::kDown>(context, product);
    case Job::kDense: return run<Job::kDense>(context, product);
    case Job::kDenseActivated: return run<Job::kDenseActivated>(context, product);
    case Job::kDenseFloat: return run<Job::kDenseFloat>(context, product);
  }
}

}  // namespace ernie
