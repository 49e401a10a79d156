// What a warp of Hopper's decode attention does with a tile of keys and values, which lie in the
// 128-byte swizzle: up to 8 query heads of head size 128 against 16 or 32 keys.
#pragma once

#include "ernie/decode_parts.cuh"
#include "ernie/hopper.cuh"

namespace ernie::decode_stream {

constexpr int kHead = kHopperHead;
constexpr int kMostHeads = kHopperRatio;

}  // namespace ernie::decode_stream

#if defined(ERNIE_HOPPER)

namespace ernie::decode_stream {

// Where column `column` of row `row` lies in a tile of kKeys rows: 64 columns, then the others.
template <int kKeys>
__device__ __forceinline__ uint32_t swizzled(int row, int column) {
  return column / 64 * (kKeys * 128) + row * 128 + ((column % 64 / 8) ^ (row % 8)) * 16 +
         column % 8 * 2;
}

// The angles of this lane's pairs of any query.
template <Turn kTurn>
struct Angles {
  float cosine[16];
  float sine[16];

  __device__ __forceinline__ void load(const float* cosines, const float* sines) {
    const int t = threadIdx.x % 4;
    if constexpr (kTurn == Turn::kNeighbours) {
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        cosine[n] = cosines[n * 4 + t];
        sine[n] = sines[n * 4 + t];
      }
    } else if constexpr (kTurn == Turn::kHalves) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 c = *reinterpret_cast<const float2*>(cosines + n * 8 + 2 * t);
        const float2 s = *reinterpret_cast<const float2*>(sines + n * 8 + 2 * t);
        cosine[2 * n] = c.x, cosine[2 * n + 1] = c.y;
        sine[2 * n] = s.x, sine[2 * n + 1] = s.y;
      }
    }
  }
};

// Queries of a KV head as B operands: column lane / 4 is a query head.
template <Turn kTurn>
struct Queries {
  uint32_t b[8][2];

  // `row` is this lane's query head, or null for zeros.
  __device__ __forceinline__ void load(const bf16* row) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      b[n / 2][n % 2] = row ? *reinterpret_cast<const uint32_t*>(row + n * 8 + 2 * t) : 0u;
    }
  }

  __device__ __forceinline__ void turn(const Angles<kTurn>& by) {
    if constexpr (kTurn == Turn::kNeighbours) {
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        uint32_t& pair = b[n / 2][n % 2];
        float x = low_float(pair), y = high_float(pair);
        turn_pair(x, y, by.cosine[n], by.sine[n]);
        pair = pack_2(x, y);
      }
    } else if constexpr (kTurn == Turn::kHalves) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        uint32_t& first = b[n / 2][n % 2];
        uint32_t& second = b[n / 2 + 4][n % 2];
        float x0 = low_float(first), x1 = high_float(first);
        float y0 = low_float(second), y1 = high_float(second);
        turn_pair(x0, y0, by.cosine[2 * n], by.sine[2 * n]);
        turn_pair(x1, y1, by.cosine[2 * n + 1], by.sine[2 * n + 1]);
        first = pack_2(x0, x1);
        second = pack_2(y0, y1);
      }
    }
  }
};

// Running softmax of up to 8 query heads; this lane's are 2 (lane % 4) and the next one. out[m] are
// the columns 16 m + lane / 4 of both and, from [2] on, the columns 8 further.
struct HeadSums {
  float out[8][4];
  float top[2];  // raw scores
  float sum[2];  // of this lane's keys, until finish()

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < 8; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[m][i] = 0.f;
    }
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0.f;
  }

  // One tile, of whose keys the first `valid` exist. The values of the others must be finite.
  template <int kKeys>
  __device__ __forceinline__ void add(const uint32_t (&q)[8][2], uint32_t keys, uint32_t values,
                                      int valid, float scale) {
    const int lane = threadIdx.x % 32;
    constexpr int kGroups = kKeys / 16;
    constexpr int kHalfBytes = kKeys * 128;
    float s[kGroups][4], t[kGroups][4];  // of even and of odd steps: shorter chains
#pragma unroll
    for (int m = 0; m < kGroups; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][i] = t[m][i] = 0.f;
    }
    {
      const uint32_t row = keys + lane % 16 * 128;
      const uint32_t chunk = ((lane / 16) ^ (lane % 8)) * 16;
#pragma unroll
      for (int step = 0; step < 8; ++step) {
#pragma unroll
        for (int m = 0; m < kGroups; ++m) {
          uint32_t a[4];
          ldmatrix_x4(a, row + step / 4 * kHalfBytes + m * 2048 + (chunk ^ (step % 4 * 32)));
          mma_m16n8k16(step % 2 == 0 ? s[m] : t[m], a, q[step]);
        }
      }
#pragma unroll
      for (int m = 0; m < kGroups; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[m][i] += t[m][i];
      }
    }
    if (valid < kKeys) {
#pragma unroll
      for (int m = 0; m < kGroups; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (m * 16 + lane / 4 + i / 2 * 8 >= valid) s[m][i] = -INFINITY;
        }
      }
    }
    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float best = top[h];
#pragma unroll
      for (int m = 0; m < kGroups; ++m) best = fmaxf(best, fmaxf(s[m][h], s[m][2 + h]));
#pragma unroll
      for (int mask = 4; mask < 32; mask *= 2) {
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, mask));
      }
      const float reference = best * scale;
      shrink[h] = fast_exp2(fmaf(top[h], scale, -reference));
      top[h] = best;
      float added = 0.f;
#pragma unroll
      for (int m = 0; m < kGroups; ++m) {
#pragma unroll
        for (int i = h; i < 4; i += 2) {
          s[m][i] = fast_exp2(fmaf(s[m][i], scale, -reference));
          added += s[m][i];
        }
      }
      sum[h] = fmaf(sum[h], shrink[h], added);
    }
#pragma unroll
    for (int m = 0; m < 8; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[m][i] *= shrink[i % 2];
    }
    {
      const uint32_t row = values + (lane % 8 + lane / 16 * 8) * 128;
      const uint32_t chunk = ((lane / 8 % 2) ^ (lane % 8)) * 16;
#pragma unroll
      for (int step = 0; step < kGroups; ++step) {
        const uint32_t b[2] = {transpose_8x8(pack_2(s[step][0], s[step][1])),
                               transpose_8x8(pack_2(s[step][2], s[step][3]))};
#pragma unroll
        for (int m = 0; m < 8; ++m) {
          uint32_t a[4];
          ldmatrix_x4_trans(a, row + m / 4 * kHalfBytes + step * 2048 + (chunk ^ (m % 4 * 32)));
          mma_m16n8k16(out[m], a, b);
        }
      }
    }
  }

  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int mask = 4; mask < 32; mask *= 2) {
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], mask);
      }
    }
  }
};

}  // namespace ernie::decode_stream

#endif  // ERNIE_HOPPER
