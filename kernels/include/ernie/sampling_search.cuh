// The search for the cut that keeps a row's most likely entries.
#pragma once

#include "ernie/sampling_entries.cuh"

namespace ernie {

template <int kCluster>
__device__ uint64_t Row<kCluster>::add_to_bin(Bins& bins, int bin, uint64_t amount) {
  const uint32_t low = static_cast<uint32_t>(amount);
  const uint32_t low_before = atomicAdd(&bins.halves[bin][0], low);
  const uint32_t high = static_cast<uint32_t>(amount >> 32) + (low_before + low < low);
  return static_cast<uint64_t>(atomicAdd(&bins.halves[bin][1], high)) << 32 | low_before;
}

template <int kCluster>
__device__ uint64_t Row<kCluster>::find_cut(bool by_mass, const Weigher& weigh,
                                            float thread_highest, float low_value,
                                            const Floor& floor, uint64_t target) {
  const Found found = search(*this, by_mass, weigh, thread_highest, low_value, floor, target);
  exchanges_ = found.exchanges;
  collections_ = found.collections;
  return found.cut;
}

template <int kCluster>
__device__ __noinline__ auto Row<kCluster>::search(Row row, bool by_mass, Weigher weigh,
                                                   float thread_highest, float low_value,
                                                   Floor floor, uint64_t target) -> Found {
  const uint64_t cut = row.search_bins(by_mass, weigh, thread_highest, low_value, floor, target);
  return {cut, row.exchanges_, row.collections_};
}

template <int kCluster>
__device__ uint64_t Row<kCluster>::search_bins(bool by_mass, const Weigher& weigh,
                                               float thread_highest, float low_value,
                                               const Floor& floor, uint64_t target) {
  const float steps = bin_steps(weigh.top - low_value);
  const auto linear = [=](float x) { return linear_bin(weigh.top - x, steps); };
  Taken left = take(thread_highest, floor);
  bool is_linear = true;
  uint32_t high = key_of(weigh.top), width = 0;
  int shift = 0;
  uint64_t above = 0;
  while (true) {
    const auto bin_of = [&](float x) {
      if (is_linear) return linear(x);
      const uint32_t offset = high - key_of(x);
      return offset < width ? static_cast<int>(offset >> shift) : -1;
    };
    Bins& bins = free_bins();
    if (threadIdx.x < kBins) bins.sums[threadIdx.x] = 0;
    __syncthreads();
    if (threadIdx.x == 0) ++shared_.rounds;
    each_taken(left, floor, [&](int, float x) {
      const int bin = bin_of(x);
      if (bin >= 0) add_to_bin(bins, bin, by_mass ? weigh(x) : 1);
    });
    sync();
    const int bin = choose_bin(bins, target, above);
    if (bin < 0) return static_cast<uint64_t>(key_of(floor.value)) << 32 | floor.ties;
    Taken within;
    each_taken(left, floor, [&](int i, float x) {
      const bool is_within = bin_of(x) == bin;
      within.number += is_within;
      within.bits |= static_cast<uint32_t>(is_within) << (i & 31);
    });
    send(0, __reduce_add_sync(kAll, within.number));
    const Place place = place_of_warp(receive(), number_of);
    if (place.total <= kGathered) {
      post(kCluster, static_cast<uint32_t>(place.before), within, floor,
           [&](float x) { return bin_of(x) == bin; });
      collect(static_cast<uint32_t>(place.total));
      return compare(by_mass, weigh, static_cast<int>(place.total), above, target);
    }
    if (kCluster > 1) left = within;
    uint32_t low;
    if (is_linear) {
      low = edge_of(linear, bin, high);
      if (bin > 0) high = edge_of(linear, bin - 1, high) - 1;
    } else {
      const uint32_t lowest = high - (width - 1);
      high -= static_cast<uint32_t>(bin) << shift;
      low = max(lowest, high - min(high, (1u << shift) - 1));
    }
    width = high - low + 1;
    if (width == 1) {
      const uint64_t each_one = by_mass ? weigh(value_of(high)) : 1;
      return cut_ties(high, left, floor, (target - above + each_one - 1) / each_one);
    }
    is_linear = false;
    shift = max(0, 32 - __clz(static_cast<int>(width - 1)) - 8);
  }
}

template <int kCluster>
__device__ int Row<kCluster>::choose_bin(const Bins& bins, uint64_t target, uint64_t& above) {
  uint64_t mine = 0, upto = 0;
  if (threadIdx.x < kBins) {
#pragma unroll
    for (unsigned r = 0; r < kCluster; ++r) mine += load_from(bins.halves[threadIdx.x], r);
    upto = scan_warp(mine);
    if (threadIdx.x % 32 == 31) shared_.of_scan[threadIdx.x / 32] = upto;
  }
  if (threadIdx.x == 0) shared_.bin = -1;
  __syncthreads();
  if (threadIdx.x < kBins) {
    upto += above;
    for (unsigned w = 0; w < threadIdx.x / 32; ++w) upto += shared_.of_scan[w];
    if (upto >= target && upto - mine < target) {
      shared_.bin = static_cast<int>(threadIdx.x);
      shared_.amount[0] = upto - mine;
    }
  }
  __syncthreads();
  above = shared_.amount[0];
  return shared_.bin;
}

template <int kCluster>
template <class BinOf>
__device__ uint32_t Row<kCluster>::edge_of(const BinOf& bin_of, int bin, uint32_t highest) {
  uint32_t low = kLowestKey, high = highest;
  while (low < high) {
    const uint32_t step = (high - low) / 32 + 1;
    const uint32_t probe = low + min(high - low, step * (threadIdx.x % 32));
    const unsigned reached = __ballot_sync(kAll, bin_of(value_of(probe)) <= bin);
    if (reached == 0) {
      low += min(high - low, step * 31 + 1);
      continue;
    }
    const uint32_t first = static_cast<uint32_t>(__ffs(static_cast<int>(reached)) - 1);
    high = low + min(high - low, step * first);
    if (first > 0) low += step * (first - 1) + 1;
  }
  return high;
}

template <int kCluster>
__device__ uint64_t Row<kCluster>::compare(bool by_mass, const Weigher& weigh, int count,
                                           uint64_t above, uint64_t target) {
  const int mine = static_cast<int>(threadIdx.x);
  uint64_t* weights = free_bins().weights;
  uint64_t entry = 0, amount = 0;
  if (mine < count) {
    entry = shared_.gathered[mine];
    amount = by_mass ? weigh(value_of(static_cast<uint32_t>(entry >> 32))) : 1;
    weights[mine] = amount;
  }
  __syncthreads();
  if (mine < count) {
    for (int i = 0; i < count; ++i) above += shared_.gathered[i] > entry ? weights[i] : 0;
    if (above < target && target <= above + amount) shared_.cut = entry;
  }
  __syncthreads();
  return shared_.cut;
}

template <int kCluster>
__device__ uint64_t Row<kCluster>::cut_ties(uint32_t key, const Taken& left, const Floor& floor,
                                            uint64_t wanted) {
  const float value = value_of(key);
  uint32_t mine = 0, last = 0;
  each_taken(left, floor, [&](int, float x) { mine += x == value; });
  const uint32_t upto = scan_warp(mine);
  send(0, __shfl_sync(kAll, upto, 31));
  uint64_t before = place_of_warp(receive(), number_of).before + upto - mine;
  each_taken(left, floor, [&](int i, float x) {
    if (x == value && ++before == wanted) last = kAll - id_of(i);
  });
  send(__reduce_max_sync(kAll, last), 0);
  return static_cast<uint64_t>(key) << 32 | highest_of(receive()).y;
}

}  // namespace ernie
