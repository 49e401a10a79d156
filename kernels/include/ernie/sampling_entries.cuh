// Entries of few tokens of a row, on their way to the blocks that need them.
#pragma once

#include "ernie/sampling_messages.cuh"

namespace ernie {

template <int kCluster>
__device__ auto Row<kCluster>::take(float thread_highest, const Floor& floor) const -> Taken {
  Taken taken;
  if (thread_highest < floor.value) return taken;
  if constexpr (kCluster > 1) {
    taken.bits = kept_bits(values_ + run_begin_, id_of(0), floor);
    taken.number = static_cast<uint32_t>(__popc(taken.bits));
  } else {
    each_slowly([&](int i, float x) { taken.number += floor.keeps(x, id_of(i)); });
  }
  return taken;
}

template <int kCluster>
template <class Use>
__device__ void Row<kCluster>::each_taken(const Taken& taken, const Floor& floor,
                                          const Use& use) const {
  if constexpr (kCluster > 1) {
    const float* run = values_ + run_begin_;
    for (uint32_t bits = taken.bits; bits != 0; bits &= bits - 1) {
      const int i = __ffs(static_cast<int>(bits)) - 1;
      use(i, run[i]);
    }
  } else if (taken.number > 0) {
    each_slowly([&](int i, float x) {
      if (floor.keeps(x, id_of(i))) use(i, x);
    });
  }
}

template <int kCluster>
template <class Posts>
__device__ void Row<kCluster>::post(unsigned to, uint32_t first, const Taken& taken,
                                    const Floor& floor, const Posts& posts) {
  if (!__any_sync(kAll, taken.number > 0)) return;
  uint32_t slot = first + scan_warp(taken.number) - taken.number;
  each_taken(taken, floor, [&](int i, float x) {
    if (!posts(x)) return;
    const uint64_t entry = static_cast<uint64_t>(key_of(x)) << 32 | (kAll - id_of(i));
    const unsigned last = to == kCluster ? kCluster - 1 : to;
#pragma unroll 1
    for (unsigned r = to == kCluster ? 0 : to; r <= last; ++r) {
      tell(&shared_.gathered[slot], r, entry, &shared_.entries_arrived);
    }
    ++slot;
  });
}

template <int kCluster>
__device__ void Row<kCluster>::collect(uint32_t count) {
  wait_for(&shared_.entries_arrived, count * sizeof(uint64_t), collections_ & 1);
  ++collections_;
}

template <int kCluster>
__device__ __noinline__ uint32_t Row<kCluster>::kept_bits(const float* run, uint32_t first_id,
                                                          Floor floor) {
  uint32_t bits = 0;
#pragma unroll
  for (int v = 0; v < kSamplingVectors; ++v) {
    const float4 four = reinterpret_cast<const float4*>(run)[v];
    const float each[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = 4 * v + e;
      if (floor.keeps(each[e], first_id + static_cast<uint32_t>(i))) bits |= 1u << i;
    }
  }
  return bits;
}

}  // namespace ernie
