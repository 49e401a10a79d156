// The loop of flash attention over tiles of 64 keys with mma.sync, for a block of four warps.
#pragma once

#include "ernie/attention.cuh"

namespace ernie {

constexpr int kFlashThreads = 128;
constexpr int kFlashKeys = 64;

// A block's shape. Warps of 32 rows read each key and value from shared memory half as often as
// warps of 16, as long as the sums of 32 rows fit the registers.
template <int kHead>
struct FlashShape {
  static constexpr int kTiles = kHead <= 80 ? 2 : 1;  // 16-row tiles of a warp
  static constexpr int kWarpRows = kTiles * 16;
  static constexpr int kRows = 4 * kWarpRows;
  static constexpr int kBlocks = kHead <= 80 ? 2 : 3;  // on one multiprocessor
  static constexpr int kTileBytes = kFlashKeys * HeadLayout<kHead>::kRowBytes;
  static constexpr int kSharedBytes = 4 * kTileBytes;  // two of keys, two of values
};

// Attends to keys 0 … keys - 1. copy(tile, keys_to, values_to) starts the copies of one tile and is
// called for tiles in ascending order; rows past the end must become zeros. limit(tile, half) is the
// number of keys that this lane's row lane / 4 + 8 half of 16-row tile `tile` sees; all rows of the
// block see at least `unmasked` keys.
template <int kHead, class Copy, class Limit>
__device__ __forceinline__ void flash_loop(
    const QueryFragments<kHead, FlashShape<kHead>::kTiles>& q,
    SoftmaxState<kHead, FlashShape<kHead>::kTiles>& state, uint32_t shared, int keys, int unmasked,
    float scale, const Copy& copy, const Limit& limit) {
  using Shape = FlashShape<kHead>;
  constexpr int kKeyTiles = kFlashKeys / 8;
  const int lane = threadIdx.x % 32;
  const int tiles = (keys + kFlashKeys - 1) / kFlashKeys;
  state.clear();
  if (tiles > 0) copy(0, shared, shared + 2 * Shape::kTileBytes);
  cp_async_commit();
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // tile is here, and everybody is done with the one before
    const uint32_t at = shared + tile % 2 * Shape::kTileBytes;
    if (tile + 1 < tiles) {
      const uint32_t next = shared + (tile + 1) % 2 * Shape::kTileBytes;
      copy(tile + 1, next, next + 2 * Shape::kTileBytes);
    }
    cp_async_commit();

    float scores[Shape::kTiles][kKeyTiles][4];
    multiply_keys<kHead, Shape::kTiles, kKeyTiles>(q, at, scores);
    if ((tile + 1) * kFlashKeys > unmasked) {
#pragma unroll
      for (int m = 0; m < Shape::kTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int visible = limit(m, half) - tile * kFlashKeys - lane % 4 * 2;
#pragma unroll
          for (int n = 0; n < kKeyTiles; ++n) {
            if (n * 8 >= visible) scores[m][n][2 * half] = -INFINITY;
            if (n * 8 + 1 >= visible) scores[m][n][2 * half + 1] = -INFINITY;
          }
        }
      }
    }
    state.update(scores, scale);
    multiply_values<kHead, Shape::kTiles, kKeyTiles>(scores, at + 2 * Shape::kTileBytes, state);
  }
  state.finish();
}

// Writes the rows; `row` gives the address of a row's kHead values, or null for none.
template <int kHead, int kTiles, class RowPointer>
__device__ __forceinline__ void store_rows(const SoftmaxState<kHead, kTiles>& state,
                                           const RowPointer& row) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bf16* to = row(tile * 16 + lane / 4 + 8 * half);
      if (to == nullptr) continue;
      const float total = state.sum[tile][half];
      const float scale = total > 0.f ? 1.f / total : 0.f;
#pragma unroll
      for (int n = 0; n < kHead / 8; ++n) {
        *reinterpret_cast<uint32_t*>(to + n * 8 + lane % 4 * 2) =
            pack_2(state.out[tile][n][2 * half] * scale, state.out[tile][n][2 * half + 1] * scale);
      }
    }
  }
}

}  // namespace ernie
