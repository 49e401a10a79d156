// The products of a stage's weight rows and token rows, by a warp.
#pragma once

#include "ernie/mma.cuh"
#include "ernie/stream_job.cuh"
#include "ernie/stream_memory.cuh"

namespace ernie {

template <bool kGrouped, class Shape>
class StreamSums {
 public:
  static constexpr int kSplit = Shape::kSplit;
  static constexpr int kTiles = Shape::kTiles;
  static constexpr int kSteps = Shape::kSteps;
  static constexpr int kPitch = Shape::kPitch;
  // Sums of one tile of tokens: where nothing else hides it, no product waits for the one before.
  static constexpr int kChains = kTiles == 1 && !kGrouped ? 2 : 1;
  using Sums = float[kTiles * kChains][4];

  // Where a lane's fragments lie in a stage.
  struct Fragments {
    uint32_t a;
    uint32_t b;
    uint32_t b_last;  // of the last tile of tokens
  };

  // Lanes past the last of `tokens` read the last one: their columns are never stored.
  __device__ static Fragments fragments(int warp, int lane, int tokens) {
    const uint32_t g = lane / 4;
    const uint32_t column = (warp % kSplit) * (8 * kSteps) + (lane % 4);
    const uint32_t token = max(min((tokens - 1) / 8 * 8 + lane / 4, tokens - 1), 0);
    return {((warp / kSplit) * 16 + g) * kPitch + ((column ^ ((g & 1) << 2)) << 4),
            Shape::kWeightBytes + g * kPitch + ((column ^ ((g & 1) << 2)) << 4),
            Shape::kWeightBytes + token * kPitch + ((column ^ ((token & 1) << 2)) << 4)};
  }

  __device__ __forceinline__ static void clear(Sums& acc) {
#pragma unroll
    for (int j = 0; j < kTiles * kChains; ++j) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.f;
  }

  __device__ __forceinline__ static void multiply(Sums& acc, int tiles, uint32_t stage,
                                                  const Fragments& from) {
    const uint32_t a = stage + from.a, b = stage + from.b, b_last = stage + from.b_last;
    if constexpr (kTiles == 1) {
      multiply_tiles<1>(acc, a, b, b_last);
    } else {
      switch (tiles) {
        case 0: break;
        case 1: multiply_tiles<1>(acc, a, b, b_last); break;
        case 2: multiply_tiles<2>(acc, a, b, b_last); break;
        case 3: multiply_tiles<3>(acc, a, b, b_last); break;
        case 4: multiply_tiles<4>(acc, a, b, b_last); break;
        default:
          if constexpr (kTiles == 8) {
            switch (tiles) {
              case 5: multiply_tiles<5>(acc, a, b, b_last); break;
              case 6: multiply_tiles<6>(acc, a, b, b_last); break;
              case 7: multiply_tiles<7>(acc, a, b, b_last); break;
              default: multiply_tiles<8>(acc, a, b, b_last); break;
            }
          }
      }
    }
  }

  // The sums of all chains go to the first.
  __device__ __forceinline__ static void join(Sums& acc) {
#pragma unroll
    for (int step = kChains / 2; step > 0; step /= 2) {
#pragma unroll
      for (int c = 0; c < step; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[c][i] += acc[c + step][i];
      }
    }
  }

 private:
  template <int kUsed>
  __device__ __forceinline__ static void multiply_tiles(Sums& acc, uint32_t a, uint32_t b,
                                                        uint32_t b_last) {
#pragma unroll
    for (int part = 0; part < 2 * kSteps; ++part) {  // of 32 columns
      const int flip = part % 2 * 64;  // bit 6 of the swizzled address
      const int step = part / 2 * 128;
      const uint4 low = load_shared_16((a ^ flip) + step);
      const uint4 high = load_shared_16((a ^ flip) + step + 8 * kPitch);
      const uint32_t first[4] = {low.x, high.x, low.y, high.y};
      const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int j = 0; j < kUsed; ++j) {
        const uint32_t row = j == kUsed - 1 ? b_last : b + j * (8 * kPitch);
        const uint4 v = load_shared_16((row ^ flip) + step);
        const uint32_t b_first[2] = {v.x, v.y};
        const uint32_t b_second[2] = {v.z, v.w};
        mma_m16n8k16(acc[j * kChains + 2 * part % kChains], first, b_first);
        mma_m16n8k16(acc[j * kChains + (2 * part + 1) % kChains], second, b_second);
      }
    }
  }
};

}  // namespace ernie
