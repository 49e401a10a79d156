// What both decode attention kernels do: read what an earlier kernel may still write, turn the
// newest key, join sums.
#pragma once

#include "ernie/decode_arguments.h"
#include "ernie/decode_instructions.cuh"
#include "ernie/exp2.cuh"
#include "ernie/rope.cuh"

namespace ernie {

template <bool kRacing>
__device__ __forceinline__ int context_of(const DecodeArguments& p, int sequence) {
  const int length = kRacing ? load_racing(p.context_lens + sequence) : p.context_lens[sequence];
  return max(0, min(length, p.table_width * p.tiles_per_page * 16));
}

// Asks for the angles of a sequence, which are older than the kernel before. All lanes call it.
template <int kHead>
__device__ __forceinline__ void hint_angles(const DecodeArguments& p, int sequence) {
  constexpr int kLines = (kHead * 2 + 127) / 128;  // of cosines
  const int lane = threadIdx.x % 32;
  const int64_t at = int64_t(sequence) * (kHead / 2) + lane % kLines * 32;
  if (lane < 2 * kLines) hint_line((lane < kLines ? p.cosines : p.sines) + at);
}

// The newest key and its value of one KV head: lane l holds four values of each, two pairs.
template <int kHead, Turn kTurn>
struct NewestRow {
  uint32_t key[2];
  uint32_t value[2];
  float2 cosine;  // until turn()
  float2 sine;

  // Columns of the two halves of a lane's key values, and of its values.
  __device__ __forceinline__ static int key_column(int i) {
    const int lane = threadIdx.x % 32;
    return kTurn == Turn::kNeighbours ? lane * 4 + 2 * i : lane * 2 + i * (kHead / 2);
  }
  __device__ __forceinline__ static int value_column(int i) {
    return static_cast<int>(threadIdx.x % 32) * 4 + 2 * i;
  }
  __device__ __forceinline__ static bool has_columns() { return threadIdx.x % 32 < kHead / 4; }

  // `k` and `v` are the untouched rows, kHead values each.
  __device__ __forceinline__ void load(const bf16* k, const bf16* v, const float* cosines,
                                       const float* sines) {
    if (!has_columns()) return;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      key[i] = *reinterpret_cast<const uint32_t*>(k + key_column(i));
      value[i] = *reinterpret_cast<const uint32_t*>(v + value_column(i));
    }
    cosine = *reinterpret_cast<const float2*>(cosines + lane * 2);
    sine = *reinterpret_cast<const float2*>(sines + lane * 2);
  }

  __device__ __forceinline__ void turn() {
    float x[4] = {low_float(key[0]), high_float(key[0]), low_float(key[1]), high_float(key[1])};
    if constexpr (kTurn == Turn::kNeighbours) {
      turn_pair(x[0], x[1], cosine.x, sine.x);
      turn_pair(x[2], x[3], cosine.y, sine.y);
    } else {
      turn_pair(x[0], x[2], cosine.x, sine.x);
      turn_pair(x[1], x[3], cosine.y, sine.y);
    }
    key[0] = pack_2(x[0], x[1]);
    key[1] = pack_2(x[2], x[3]);
  }

  __device__ __forceinline__ void store(bf16* k, bf16* v) const {
    if (!has_columns()) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      *reinterpret_cast<uint32_t*>(k + key_column(i)) = key[i];
      *reinterpret_cast<uint32_t*>(v + value_column(i)) = value[i];
    }
  }

  // To shared memory, where `place` gives the address of a column relative to its row's tile.
  template <class Place>
  __device__ __forceinline__ void store_shared(uint32_t k, uint32_t v, const Place& place) const {
    if (!has_columns()) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      store_shared_4(k + place(key_column(i)), key[i]);
      store_shared_4(v + place(value_column(i)), value[i]);
    }
  }
};

__device__ __forceinline__ float weight_of(float maximum, float top) {
  return maximum == -INFINITY ? 0.f : fast_exp2(maximum - top);
}

__device__ __forceinline__ void add_scaled(float4& sum, float4 value, float weight) {
  sum.x = fmaf(value.x, weight, sum.x);
  sum.y = fmaf(value.y, weight, sum.y);
  sum.z = fmaf(value.z, weight, sum.z);
  sum.w = fmaf(value.w, weight, sum.w);
}

__device__ __forceinline__ void store_row(bf16* to, float4 value, float scale) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_2(value.x * scale, value.y * scale),
                                             pack_2(value.z * scale, value.w * scale));
}

// Joins the splits of a (sequence, KV head), by the block's first kWarps warps; sync() is a barrier
// of these. `scratch` holds 2 · ratio · splits floats of shared memory.
template <int kHead, int kWarps, class Sync>
__device__ __forceinline__ void join_splits(const DecodeArguments& p, int64_t head, int splits,
                                            float* scratch, const Sync& sync) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const float2* sums = p.partial_sum + head * p.split_slots * p.ratio;
  float2* weights = reinterpret_cast<float2*>(scratch);
  for (int row = warp; row < p.ratio; row += kWarps) {
    float2* mine = weights + row * splits;
    float top = -INFINITY;
    for (int s = lane; s < splits; s += 32) {
      const float2 sum = __ldcg(sums + s * p.ratio + row);
      mine[s] = sum;
      top = fmaxf(top, sum.x);
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, mask));
    }
    float total = 0.f;
    for (int s = lane; s < splits; s += 32) {
      const float2 sum = mine[s];
      const float weight = weight_of(sum.x, top);
      mine[s].x = weight;
      total = fmaf(weight, sum.y, total);
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) total += __shfl_xor_sync(0xffffffffu, total, mask);
    const float inverse = total > 0.f ? 1.f / total : 0.f;
    for (int s = lane; s < splits; s += 32) mine[s].x *= inverse;
  }
  sync();
  const int stride = p.ratio * kHead;
  const float* parts = p.partial_out + head * p.split_slots * stride;
  for (int at = threadIdx.x * 4; at < stride; at += kWarps * 32 * 4) {
    const float2* weight = weights + at / kHead * splits;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
    for (int s = 0; s < splits; ++s) {
      add_scaled(sum, __ldcg(reinterpret_cast<const float4*>(parts + int64_t(s) * stride + at)),
                 weight[s].x);
    }
    store_row(p.out + head * stride + at, sum, 1.f);
  }
}

}  // namespace ernie
