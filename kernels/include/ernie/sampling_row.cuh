// One row of logits on its way to a token, the work of a cluster of blocks or of one block: what its
// threads look at, and what its blocks tell each other.
//
// Blocks meet by messages, one of each warp to each block: whoever has all of them goes on, without
// a barrier of the cluster.
#pragma once

#include "ernie/hopper.cuh"
#include "ernie/sampling_keys.cuh"

namespace ernie {

constexpr int kSamplingThreads = 480;
constexpr int kSamplingWarps = kSamplingThreads / 32;
constexpr int kSamplingCluster = 8;
// 16-byte vectors of a thread's run of neighbouring values: odd, hence no two threads of a quarter
// warp in one bank.
constexpr int kSamplingVectors = 7;
constexpr int kGathered = 256;

// What a warp tells all blocks.
struct __align__(16) Message {
  uint64_t amount;
  uint64_t number;
};

__device__ __forceinline__ uint64_t amount_of(const Message& message) { return message.amount; }
__device__ __forceinline__ uint64_t number_of(const Message& message) { return message.number; }

template <int kCluster>
struct RowShared {
  // What each warp of the cluster sent here; two, because a neighbour may be a step ahead.
  Message of_warp[2][kCluster * kSamplingWarps];
  uint64_t gathered[kGathered];
  union {
    uint64_t sums[kBins];
    uint32_t halves[kBins][2];  // lower and upper half of a sum
    uint64_t weights[kGathered];
  };
  uint64_t of_scan[kBins / 32];
  uint64_t amount[2];
  uint64_t cut;
  uint64_t messages_arrived[2];  // mbarriers
  uint64_t entries_arrived;
  int bin;
  uint32_t kth[2];
  uint64_t random[2][32];
};

template <int kCluster>
class Row {
 public:
  using Shared = RowShared<kCluster>;
  static constexpr int kSenders = kCluster * kSamplingWarps;

  // `padded_values`: where the runs of the block's share end. Threads beyond look at a run of -inf
  // behind it.
  __device__ Row(Shared& shared, int vectors, int block_values, int padded_values)
      : shared_(shared), vectors_(kCluster > 1 ? kSamplingVectors : vectors) {
    rank_ = 0;
#if defined(ERNIE_HOPPER)
    if (kCluster > 1) rank_ = cluster_rank();
#endif
    first_id_ = static_cast<int>(rank_) * block_values;
    run_begin_ = min(static_cast<int>(threadIdx.x) * vectors_ * 4, padded_values);
  }

  __device__ Shared& shared() { return shared_; }
  __device__ unsigned rank() const { return rank_; }
  __device__ int first_id() const { return first_id_; }
  __device__ int run_begin() const { return run_begin_; }
  __device__ int run_length() const { return vectors_ * 4; }
  __device__ uint32_t id_of(int i) const {
    return static_cast<uint32_t>(first_id_ + run_begin_ + i);
  }
  __device__ int warp() const {  // of the cluster, in the order of ids
    return static_cast<int>(rank_) * kSamplingWarps + static_cast<int>(threadIdx.x) / 32;
  }
  __device__ void set_values(float* values) { values_ = values; }
  __device__ float& operator[](int i) { return values_[i]; }

  // Calls use(i, value) for each of the thread's run of neighbouring values; in few instructions
  // (`each_slowly`) where that matters more than their number.
  template <class Use>
  __device__ __forceinline__ void each(const Use& use) const {
    if constexpr (kCluster == 1) {
      each_slowly(use);
    } else {
#pragma unroll
      for (int v = 0; v < kSamplingVectors; ++v) use_vector(v, use);
    }
  }
  template <class Use>
  __device__ __forceinline__ void each_slowly(const Use& use) const {
#pragma unroll 1
    for (int v = 0; v < vectors_; ++v) use_vector(v, use);
  }

  // ---- between blocks

  __device__ void arrive() const {
#if defined(ERNIE_HOPPER)
    if (kCluster > 1) {
      __syncwarp();
      asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    }
#endif
  }
  __device__ void wait() const {
#if defined(ERNIE_HOPPER)
    if (kCluster > 1) {
      __syncwarp();
      asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    }
#endif
  }
  // Orders everything, which takes its time.
  __device__ void sync() const {
    if (kCluster > 1) {
      arrive();
      wait();
    } else {
      __syncthreads();
    }
  }

  // The warp's message, the same in all lanes, to every block. What was received last must not be
  // looked at from then on.
  __device__ void send(uint64_t amount, uint64_t number) const {
    const unsigned lane = threadIdx.x % 32;
    __syncwarp();
    if (lane < kCluster) {
      tell(&shared_.of_warp[exchanges_ & 1][warp()], lane, {amount, number},
           &shared_.messages_arrived[exchanges_ & 1]);
    }
    __syncwarp();
  }

  // What all warps sent, in the order of their ids. When it is here, every thread of the cluster
  // is done with what it did before it sent.
  __device__ const Message* receive() {
    const int slot = exchanges_ & 1;
    wait_for(&shared_.messages_arrived[slot], kSenders * sizeof(Message), exchanges_ >> 1 & 1);
    ++exchanges_;
    return shared_.of_warp[slot];
  }

  // The largest of the upper and lower halves of amounts.
  __device__ uint2 highest_of(const Message* received) const {
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

  // Sums over all warps and over those with lower ids.
  struct Place {
    uint64_t before, total;
  };
  template <class Part>
  __device__ Place place_of_warp(const Message* received, const Part& part) const {
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

  // Of values below 2^61; in parts that the hardware adds.
  __device__ static uint64_t sum_of_warp(uint64_t value) {
    const uint32_t low = static_cast<uint32_t>(value) & 0x1fffffu;
    const uint32_t middle = static_cast<uint32_t>(value >> 21) & 0x1fffffu;
    const uint32_t high = static_cast<uint32_t>(value >> 42);
    return static_cast<uint64_t>(__reduce_add_sync(kAll, low)) +
           (static_cast<uint64_t>(__reduce_add_sync(kAll, middle)) << 21) +
           (static_cast<uint64_t>(__reduce_add_sync(kAll, high)) << 42);
  }

  template <class T>
  __device__ static T scan_warp(T value) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const T other = __shfl_up_sync(kAll, value, distance);
      if (lane >= distance) value += other;
    }
    return value;
  }

  // ---- entries of few tokens: all tell how many they have, then those who need them get them

  // The thread's values that a floor keeps; their bits only where a run has no more than 32.
  struct Taken {
    uint32_t number = 0, bits = 0;
  };
  __device__ Taken take(float thread_highest, const Floor& floor) const {
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

  // Calls use(i, value) for each of them.
  template <class Use>
  __device__ void each_taken(const Taken& taken, const Floor& floor, const Use& use) const {
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

  // The thread's entries, those of what is taken that `posts`, to block `to` or to all (`to` =
  // kCluster); the warp's first one has number `first`.
  template <class Posts>
  __device__ void post(unsigned to, uint32_t first, const Taken& taken, const Floor& floor,
                       const Posts& posts) {
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

  // Blocks that get entries wait for them.
  __device__ void collect(uint32_t count) {
    wait_for(&shared_.entries_arrived, count * sizeof(uint64_t), collections_ & 1);
    ++collections_;
  }

  // About the k-th largest of the warps' lower halves, such that at least k values are no smaller;
  // the lowest key when there are fewer warps. Ends in a barrier of the block.
  __device__ uint32_t kth_maximum(const Message* received, int k) {
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
    if (larger == k - 1) kth = mine & ~127u;
    __syncthreads();
    return max(kth, kLowestKey);
  }

  // What the bin held before.
  __device__ uint64_t add_to_bin(int bin, uint64_t amount) {
    const uint32_t low = static_cast<uint32_t>(amount);
    const uint32_t low_before = atomicAdd(&shared_.halves[bin][0], low);
    const uint32_t high = static_cast<uint32_t>(amount >> 32) + (low_before + low < low);
    return static_cast<uint64_t>(atomicAdd(&shared_.halves[bin][1], high)) << 32 | low_before;
  }

  // The cut that keeps the fewest most likely entries, of those `floor` keeps, whose amount reaches
  // `target`: numbers of values, or (by mass) sums of weights. Keeps all that do not reach it.
  __device__ uint64_t find_cut(bool by_mass, const Weigher& weigh, float thread_highest,
                               float low_value, const Floor& floor, uint64_t target) {
    const Found found = search(*this, by_mass, weigh, thread_highest, low_value, floor, target);
    exchanges_ = found.exchanges;
    collections_ = found.collections;
    return found.cut;
  }

 private:
  struct Found {
    uint64_t cut;
    int exchanges, collections;
  };
  // By value and apart from the caller's code, which is seldom in need of it: a row that lies in
  // registers stays there.
  __device__ __noinline__ static Found search(Row row, bool by_mass, Weigher weigh,
                                              float thread_highest, float low_value, Floor floor,
                                              uint64_t target) {
    const uint64_t cut = row.search_bins(by_mass, weigh, thread_highest, low_value, floor, target);
    return {cut, row.exchanges_, row.collections_};
  }

  // Amounts are counted in bins, at first equal steps from the top to `low_value`, then equal ranges
  // of keys within what holds the target, until so few are left that they can be compared.
  __device__ uint64_t search_bins(bool by_mass, const Weigher& weigh, float thread_highest,
                                  float low_value, const Floor& floor, uint64_t target) {
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
      if (threadIdx.x < kBins) shared_.sums[threadIdx.x] = 0;
      __syncthreads();
      each_taken(left, floor, [&](int, float x) {
        const int bin = bin_of(x);
        if (bin >= 0) add_to_bin(bin, by_mass ? weigh(x) : 1);
      });
      sync();
      const int bin = choose_bin(target, above);
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

  // Values of a thread in a cluster that `floor` keeps, a bit each.
  __device__ __noinline__ static uint32_t kept_bits(const float* run, uint32_t first_id,
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

  template <class Use>
  __device__ __forceinline__ void use_vector(int v, const Use& use) const {
    const float4 four = reinterpret_cast<const float4*>(values_ + run_begin_)[v];
    use(4 * v, four.x), use(4 * v + 1, four.y), use(4 * v + 2, four.z), use(4 * v + 3, four.w);
  }

  // Stores to where `place` is in block `rank` and counts the bytes on `barrier` there.
  __device__ void tell(Message* place, unsigned rank, Message message, uint64_t* barrier) const {
#if defined(ERNIE_HOPPER)
    if (kCluster > 1) {
      asm volatile(
          "{\n.reg .b32 place, barrier;\n"
          "mapa.shared::cluster.u32 place, %0, %2;\n"
          "mapa.shared::cluster.u32 barrier, %1, %2;\n"
          "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.u64 "
          "[place], {%3, %4}, [barrier];\n}" ::"r"(shared_address(place)),
          "r"(shared_address(barrier)), "r"(rank), "l"(message.amount), "l"(message.number)
          : "memory");
      return;
    }
#endif
    *place = message;
  }
  __device__ void tell(uint64_t* place, unsigned rank, uint64_t entry, uint64_t* barrier) const {
#if defined(ERNIE_HOPPER)
    if (kCluster > 1) {
      asm volatile(
          "{\n.reg .b32 place, barrier;\n"
          "mapa.shared::cluster.u32 place, %0, %2;\n"
          "mapa.shared::cluster.u32 barrier, %1, %2;\n"
          "st.async.shared::cluster.mbarrier::complete_tx::bytes.u64 "
          "[place], %3, [barrier];\n}" ::"r"(shared_address(place)),
          "r"(shared_address(barrier)), "r"(rank), "l"(entry)
          : "memory");
      return;
    }
#endif
    *place = entry;
  }

  // All threads of the block: until `bytes` have been told.
  __device__ void wait_for(uint64_t* barrier, uint32_t bytes, int parity) const {
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

  __device__ uint64_t load_from(const void* pointer, unsigned rank) const {
#if defined(ERNIE_HOPPER)
    if (kCluster > 1) {
      uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
      uint64_t value;
      asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
      asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(value) : "r"(address) : "memory");
      return value;
    }
#endif
    return *static_cast<const uint64_t*>(pointer);
  }

  // The bin that holds the target, and what lies above it; -1 if all do not reach the target.
  __device__ int choose_bin(uint64_t target, uint64_t& above) {
    uint64_t mine = 0, upto = 0;
    if (threadIdx.x < kBins) {
#pragma unroll
      for (unsigned r = 0; r < kCluster; ++r) mine += load_from(shared_.halves[threadIdx.x], r);
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

  // The lowest key whose value lies in bin `bin` or above; each warp searches by itself.
  template <class BinOf>
  __device__ static uint32_t edge_of(const BinOf& bin_of, int bin, uint32_t highest) {
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

  // The entry at which the gathered ones reach the target.
  __device__ uint64_t compare(bool by_mass, const Weigher& weigh, int count, uint64_t above,
                              uint64_t target) {
    const int mine = static_cast<int>(threadIdx.x);
    uint64_t entry = 0, amount = 0;
    if (mine < count) {
      entry = shared_.gathered[mine];
      amount = by_mass ? weigh(value_of(static_cast<uint32_t>(entry >> 32))) : 1;
      shared_.weights[mine] = amount;
    }
    __syncthreads();
    if (mine < count) {
      for (int i = 0; i < count; ++i) above += shared_.gathered[i] > entry ? shared_.weights[i] : 0;
      if (above < target && target <= above + amount) shared_.cut = entry;
    }
    __syncthreads();
    return shared_.cut;
  }

  // Keeps the first `wanted` of the tokens of equal value, which are among the `left` ones.
  __device__ uint64_t cut_ties(uint32_t key, const Taken& left, const Floor& floor,
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

  Shared& shared_;
  float* values_ = nullptr;
  int vectors_;
  int first_id_;
  int run_begin_;
  unsigned rank_;
  int exchanges_ = 0;
  int collections_ = 0;
  int searches_ = 0;
};

}  // namespace ernie
