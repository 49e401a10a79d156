// Flash attention on Hopper: tiles of 128 query rows x 128 keys in a block of three warpgroups.
//
//   warpgroup 0, producer   one warp brings keys and values by TMA through a ring of two stages
//   warpgroups 1, 2         64 rows each: S = Q Kᵀ, softmax, O += P V, by wgmma
//
// A consumer starts the next tile's S before this tile's P V and runs its softmax while P V is
// still being multiplied. The two consumers take turns to issue their products, so that the one's
// softmax falls into the other's products. full: bytes have come; empty: all consumer warps are done.
#pragma once

#include "ernie/attention.cuh"
#include "ernie/attention_wgmma.cuh"

namespace ernie {

template <int kHead>
struct HopperShape {
  static constexpr int kRows = 128;
  static constexpr int kKeys = 128;
  static constexpr int kThreads = 3 * 128;
  static constexpr int kStages = 2;
  static constexpr int kHalves = (kHead + 63) / 64;  // of 64 columns: one swizzled row of 128 bytes
  static constexpr int kSteps = (kHead + 15) / 16;
  static constexpr int kHalfBytes = 128 * 128;
  static constexpr int kTileBytes = kHalves * kHalfBytes;
  static constexpr int kBarriers = 4 * kStages;
  static constexpr int kSharedBytes = (1 + 2 * kStages) * kTileBytes + kBarriers * 8 + 1024;
};

#if defined(ERNIE_HOPPER)

// Places in shared memory, from its first multiple of 1024 on.
template <int kHead>
struct HopperShared {
  using Shape = HopperShape<kHead>;
  uint32_t base;

  __device__ explicit HopperShared(const void* shared)
      : base((shared_address(shared) + 1023) / 1024 * 1024) {}
  __device__ uint32_t queries() const { return base; }
  __device__ uint32_t keys(int stage) const { return base + (1 + stage) * Shape::kTileBytes; }
  __device__ uint32_t values(int stage) const {
    return base + (1 + Shape::kStages + stage) * Shape::kTileBytes;
  }
  __device__ uint32_t barrier(int kind, int stage) const {
    return base + (1 + 2 * Shape::kStages) * Shape::kTileBytes + (kind * Shape::kStages + stage) * 8;
  }
  __device__ uint32_t keys_full(int stage) const { return barrier(0, stage); }
  __device__ uint32_t values_full(int stage) const { return barrier(1, stage); }
  __device__ uint32_t keys_empty(int stage) const { return barrier(2, stage); }
  __device__ uint32_t values_empty(int stage) const { return barrier(3, stage); }

  // By one thread; a __syncthreads() must follow.
  __device__ void init_barriers() const {
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      mbarrier_init(keys_full(stage), 1);
      mbarrier_init(values_full(stage), 1);
      mbarrier_init(keys_empty(stage), 8);  // consumer warps
      mbarrier_init(values_empty(stage), 8);
    }
    mbarrier_fence_init();
  }
};

__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// The producer, one whole warp. copy_keys(tile, to, barrier) and copy_values announce the bytes of a
// tile on the barrier and start their copies.
template <int kHead, class CopyKeys, class CopyValues>
__device__ __forceinline__ void produce(const HopperShared<kHead>& shared, int tiles,
                                        const CopyKeys& copy_keys, const CopyValues& copy_values) {
  constexpr int kStages = HopperShape<kHead>::kStages;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % kStages;
    const uint32_t parity = (tile / kStages & 1) ^ 1;
    mbarrier_wait(shared.keys_empty(stage), parity);
    copy_keys(tile, shared.keys(stage), shared.keys_full(stage));
    mbarrier_wait(shared.values_empty(stage), parity);
    copy_values(tile, shared.values(stage), shared.values_full(stage));
  }
}

// One consumer warpgroup: 64 rows.
template <int kHead>
class Consumer {
 public:
  using Shape = HopperShape<kHead>;
  float out[kHead / 2];
  float sum[2];

  // `group` is 0 or 1.
  __device__ Consumer(const HopperShared<kHead>& shared, int group)
      : shared_(shared), group_(group), thread_(threadIdx.x % 128), lane_(threadIdx.x % 32) {}

  // `row` gives the address of the values of row 0 … 63, or null for a row of zeros.
  template <class RowPointer>
  __device__ __forceinline__ void load_queries(const RowPointer& row) const {
    constexpr int kChunks = Shape::kHalves * 8;
#pragma unroll
    for (int first = 0; first < 64 * kChunks; first += 128) {
      const int r = (first + thread_) / kChunks;
      const int chunk = (first + thread_) % kChunks;
      const bf16* from = row(r);
      uint4 value = make_uint4(0, 0, 0, 0);
      if (from != nullptr && chunk * 8 < kHead) value = load_16(from + chunk * 8);
      const uint32_t to = shared_.queries() + chunk / 8 * Shape::kHalfBytes +
                          (group_ * 64 + r) * 128 + ((chunk % 8) ^ (r % 8)) * 16;
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.x),
                   "r"(value.y), "r"(value.z), "r"(value.w)
                   : "memory");
    }
    fence_proxy_async();
    named_barrier_sync(3 + group_, 128);
  }

  // Attends to keys 0 … keys - 1. limits[h] is the number of keys that row
  // 16 · warp + lane / 4 + 8 h sees; all rows of the block see at least `unmasked`.
  __device__ __forceinline__ void run(int keys, int unmasked, const int (&limits)[2], float scale) {
    const int tiles = (keys + Shape::kKeys - 1) / Shape::kKeys;
#pragma unroll
    for (int i = 0; i < kHead / 2; ++i) out[i] = 0.f;
    float scores[64];
    uint32_t p[8][4];
    float shrink[2];
    maximum_[0] = maximum_[1] = -INFINITY;
    sum[0] = sum[1] = 0.f;
    if (group_ == 1 && tiles > 1) named_barrier_arrive(1, 256);  // the other one begins

    mbarrier_wait(shared_.keys_full(0), 0);
    multiply_keys(scores, 0);
    wgmma_wait<0>();
    wgmma_fence_operands(scores);
    release(shared_.keys_empty(0));
    soften(scores, 0, unmasked, limits, scale, shrink);
    pack(scores, p);

#pragma unroll 1
    for (int tile = 1; tile < tiles; ++tile) {
      const int stage = tile % Shape::kStages;
      const int before = (tile - 1) % Shape::kStages;
      mbarrier_wait(shared_.keys_full(stage), tile / Shape::kStages & 1);
      named_barrier_sync(1 + group_, 256);
      multiply_keys(scores, stage);
      mbarrier_wait(shared_.values_full(before), (tile - 1) / Shape::kStages & 1);
      multiply_values(p, before);
      if (group_ == 0 || tile + 1 < tiles) named_barrier_arrive(2 - group_, 256);
      wgmma_wait<1>();
      wgmma_fence_operands(scores);
      release(shared_.keys_empty(stage));
      soften(scores, tile, unmasked, limits, scale, shrink);
      hold_wait(keys < 0);
      wgmma_wait<0>();
      wgmma_fence_operands(out);
      release(shared_.values_empty(before));
#pragma unroll
      for (int b = 0; b < kHead / 8; ++b) {
        out[4 * b] *= shrink[0];
        out[4 * b + 1] *= shrink[0];
        out[4 * b + 2] *= shrink[1];
        out[4 * b + 3] *= shrink[1];
      }
      pack(scores, p);
    }

    const int last = (tiles - 1) % Shape::kStages;
    mbarrier_wait(shared_.values_full(last), (tiles - 1) / Shape::kStages & 1);
    if (keys % Shape::kKeys != 0) clear_values(last, keys % Shape::kKeys);
    multiply_values(p, last);
    wgmma_wait<0>();
    wgmma_fence_operands(out);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    }
  }

  // `row` gives where row 0 … 63 goes, or null for nowhere.
  template <class RowPointer>
  __device__ __forceinline__ void store(const RowPointer& row) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      bf16* to = row(thread_ / 32 * 16 + lane_ / 4 + 8 * h);
      if (to == nullptr) continue;
      const float scale = sum[h] > 0.f ? 1.f / sum[h] : 0.f;
#pragma unroll
      for (int b = 0; b < kHead / 8; ++b) {
        *reinterpret_cast<uint32_t*>(to + b * 8 + lane_ % 4 * 2) =
            pack_2(out[4 * b + 2 * h] * scale, out[4 * b + 2 * h + 1] * scale);
      }
    }
  }

 private:
  __device__ __forceinline__ void release(uint32_t barrier) const {
    if (lane_ == 0) mbarrier_arrive(barrier);
  }

  // ptxas would move the wait for P V up, ahead of the softmax that shall run meanwhile. It keeps the
  // order of a wait and a store, and this store, which never happens, needs the softmax's sums.
  __device__ __forceinline__ void hold_wait(bool never) const {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n"
        "@p st.shared.v2.f32 [%1], {%2, %3};\n}" ::"r"(static_cast<int>(never)),
        "r"(shared_.base), "f"(sum[0]), "f"(sum[1])
        : "memory");
  }

  __device__ __forceinline__ void multiply_keys(float (&scores)[64], int stage) const {
    const uint64_t q = wgmma_descriptor(shared_.queries() + group_ * 64 * 128);
    const uint64_t k = wgmma_descriptor(shared_.keys(stage));
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      const uint64_t at = step / 4 * (Shape::kHalfBytes / 16) + step % 4 * kDescriptorK;
      wgmma_m64n128k16(scores, q + at, k + at, step > 0);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void multiply_values(const uint32_t (&p)[8][4], int stage) {
    const uint64_t v = wgmma_descriptor_rows(shared_.values(stage), Shape::kHalfBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 8; ++step) wgmma_values(out, p[step], v + step * kDescriptorRows);
    wgmma_commit();
  }

  // Scores become probabilities relative to the new row maxima; shrink[h] is what the sums so far
  // must be multiplied by.
  __device__ __forceinline__ void soften(float (&scores)[64], int tile, int unmasked,
                                         const int (&limits)[2], float scale, float (&shrink)[2]) {
    if ((tile + 1) * Shape::kKeys > unmasked) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int visible = limits[h] - tile * Shape::kKeys - lane_ % 4 * 2;
#pragma unroll
        for (int b = 0; b < 16; ++b) {
          if (b * 8 >= visible) scores[4 * b + 2 * h] = -INFINITY;
          if (b * 8 + 1 >= visible) scores[4 * b + 2 * h + 1] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = maximum_[h];
#pragma unroll
      for (int b = 0; b < 16; ++b) {
        top = fmaxf(top, fmaxf(scores[4 * b + 2 * h], scores[4 * b + 2 * h + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      // A row with nothing but masked keys so far: any finite reference gives zeros.
      const float reference = top == -INFINITY ? 0.f : top * scale;
      shrink[h] = fast_exp2(shift_of(maximum_[h], scale, reference));
      maximum_[h] = top;
      float even = 0.f, odd = 0.f;
#pragma unroll
      for (int b = 0; b < 16; ++b) {
        float& first = scores[4 * b + 2 * h];
        float& second = scores[4 * b + 2 * h + 1];
        first = fast_exp2(fmaf(first, scale, -reference));
        second = fast_exp2(fmaf(second, scale, -reference));
        even += first;
        odd += second;
      }
      sum[h] = fmaf(sum[h], shrink[h], even + odd);
    }
  }

  // Accumulator layout to A operands: blocks 2 s and 2 s + 1 of 8 keys are step s of 16.
  __device__ __forceinline__ void pack(const float (&scores)[64], uint32_t (&p)[8][4]) const {
#pragma unroll
    for (int step = 0; step < 8; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[step][i] = pack_2(scores[8 * step + 2 * i], scores[8 * step + 2 * i + 1]);
      }
    }
  }

  // Rows of the last tile that no key fills may hold anything, and 0 · NaN is NaN. Both consumers
  // write all of the zeros, so neither waits for the other.
  __device__ __forceinline__ void clear_values(int stage, int valid) const {
#pragma unroll
    for (int half = 0; half < Shape::kHalves; ++half) {
      const uint32_t tile = shared_.values(stage) + half * Shape::kHalfBytes;
      for (int at = valid * 128 + thread_ * 16; at < Shape::kHalfBytes; at += 128 * 16) {
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(tile + at), "r"(0)
                     : "memory");
      }
    }
    fence_proxy_async();
    named_barrier_sync(3 + group_, 128);
  }

  HopperShared<kHead> shared_;
  int group_;
  int thread_;
  int lane_;
  float maximum_[2];
};

#endif  // ERNIE_HOPPER

}  // namespace ernie
