// What the blocks of a row tell each other, and what a warp knows of what was told.
#pragma once

#include "ernie/sampling_row.cuh"

namespace ernie {

template <int kCluster>
__device__ void Row<kCluster>::arrive() const {
#if defined(ERNIE_HOPPER)
  if (kCluster > 1) {
    __syncwarp();
    cluster_arrive();
  }
#endif
}

template <int kCluster>
__device__ void Row<kCluster>::wait() const {
#if defined(ERNIE_HOPPER)
  if (kCluster > 1) {
    __syncwarp();
    cluster_wait();
  }
#endif
}

template <int kCluster>
__device__ void Row<kCluster>::sync() const {
  if (kCluster > 1) {
    arrive();
    wait();
  } else {
    __syncthreads();
  }
}

template <int kCluster>
__device__ void Row<kCluster>::send(uint64_t amount, uint64_t number) const {
  const unsigned lane = threadIdx.x % 32;
  __syncwarp();
  if (lane < kCluster) {
    tell(&shared_.of_warp[exchanges_ & 1][warp()], lane, {amount, number},
         &shared_.messages_arrived[exchanges_ & 1]);
  }
  __syncwarp();
}

template <int kCluster>
__device__ const Message* Row<kCluster>::receive() {
  const int slot = exchanges_ & 1;
  wait_for(&shared_.messages_arrived[slot], kSenders * sizeof(Message), exchanges_ >> 1 & 1);
  ++exchanges_;
  return shared_.of_warp[slot];
}

template <int kCluster>
__device__ uint2 Row<kCluster>::highest_of(const Message* received) const {
  uint32_t high = 0, low = 0;
#pragma unroll
  for (int base = 0; base < kSenders; base += 32) {
    const int i = base + static_cast<int>(threadIdx.x) % 32;
    const uint64_t value = i < kSenders ? received[i].amount : 0;
    high = max(high, static_cast<uint32_t>(value >> 32));
    low = max(low, static_cast<uint32_t>(value));
  }
  return make_uint2(__reduce_max_sync(kAll, high), __reduce_max_sync(kAll, low));
}

template <int kCluster>
template <class Part>
__device__ auto Row<kCluster>::place_of_warp(const Message* received,
                                             const Part& part) const -> Place {
  uint64_t all = 0, lower = 0;
#pragma unroll
  for (int base = 0; base < kSenders; base += 32) {
    const int i = base + static_cast<int>(threadIdx.x) % 32;
    const uint64_t value = i < kSenders ? part(received[i]) : 0;
    all += value;
    lower += i < warp() ? value : 0;
  }
  return {sum_of_warp(lower), sum_of_warp(all)};
}

template <int kCluster>
__device__ uint64_t Row<kCluster>::sum_of_warp(uint64_t value) {
  const uint32_t low = static_cast<uint32_t>(value) & 0x1fffffu;
  const uint32_t middle = static_cast<uint32_t>(value >> 21) & 0x1fffffu;
  const uint32_t high = static_cast<uint32_t>(value >> 42);
  return static_cast<uint64_t>(__reduce_add_sync(kAll, low)) +
         (static_cast<uint64_t>(__reduce_add_sync(kAll, middle)) << 21) +
         (static_cast<uint64_t>(__reduce_add_sync(kAll, high)) << 42);
}

template <int kCluster>
template <class T>
__device__ T Row<kCluster>::scan_warp(T value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const T other = __shfl_up_sync(kAll, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

template <int kCluster>
__device__ uint32_t Row<kCluster>::kth_maximum(const Message* received, int k) {
  if (k > kSenders) return kLowestKey;
  uint32_t& kth = shared_.kth[++searches_ & 1];
  // Neighbouring threads share the comparisons of one of them.
  constexpr int kShare = kSamplingThreads / kSenders, kPart = (kSenders + kShare - 1) / kShare;
  const int place = static_cast<int>(threadIdx.x) / kShare;
  const int part = static_cast<int>(threadIdx.x) % kShare;
  static_assert(kSamplingThreads % kSenders == 0 && (kShare == 4 || kCluster == 1));
  // No two are equal with the place among them in the lowest bits: a bound may be a little lower.
  const auto key_at = [&](int i) {
    return (static_cast<uint32_t>(received[i].amount) | 127u) - static_cast<uint32_t>(i);
  };
  const uint32_t mine = key_at(place);
  int larger = 0;
#pragma unroll
  for (int j = 0; j < kPart; ++j) {
    const int i = part * kPart + j;
    if (kSenders % kShare == 0 || i < kSenders) larger += key_at(i) > mine;
  }
#pragma unroll
  for (int mask = kShare / 2; mask > 0; mask >>= 1) larger += __shfl_xor_sync(kAll, larger, mask);
  if (larger == k - 1 && part == 0) kth = mine & ~127u;
  __syncthreads();
  return max(kth, kLowestKey);
}

template <int kCluster>
__device__ void Row<kCluster>::tell(Message* place, unsigned rank, Message message,
                                    uint64_t* barrier) const {
#if defined(ERNIE_HOPPER)
  if (kCluster > 1) {
    tell_cluster(shared_address(place), shared_address(barrier), rank,
                 make_ulonglong2(message.amount, message.number));
    return;
  }
#endif
  *place = message;
}

template <int kCluster>
__device__ void Row<kCluster>::tell(uint64_t* place, unsigned rank, uint64_t entry,
                                    uint64_t* barrier) const {
#if defined(ERNIE_HOPPER)
  if (kCluster > 1) {
    tell_cluster(shared_address(place), shared_address(barrier), rank, entry);
    return;
  }
#endif
  *place = entry;
}

template <int kCluster>
__device__ void Row<kCluster>::wait_for(uint64_t* barrier, uint32_t bytes, int parity) const {
#if defined(ERNIE_HOPPER)
  if (kCluster > 1) {
    if (threadIdx.x == 0) mbarrier_arrive_expect(shared_address(barrier), bytes);
    mbarrier_wait(shared_address(barrier), static_cast<uint32_t>(parity));
    __syncwarp();  // lanes may have left the wait one by one
    return;
  }
#endif
  __syncthreads();
}

template <int kCluster>
__device__ uint64_t Row<kCluster>::load_from(const void* pointer, unsigned rank) const {
#if defined(ERNIE_HOPPER)
  if (kCluster > 1) return load_cluster(shared_address(pointer), rank);
#endif
  return *static_cast<const uint64_t*>(pointer);
}

}  // namespace ernie
