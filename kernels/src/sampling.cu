// Sampling: one launch, a cluster of blocks per row that keeps the row in its shared memory.
//
// Weights are exp((x - max) / temperature) in fixed point, 2^44 for the most likely token: sums are
// integers, hence exact in any order. Cuts (top_k, top_p) are found by searching the order-preserving
// integer keys of the logits, eight ranges at a time, instead of sorting.
#include <algorithm>
#include <cmath>

#include "ernie/check.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/philox.h"
#include "ernie/sampling.h"
#include "ernie/vector.cuh"

namespace ernie {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kClusterSize = 8;
constexpr int kBins = 8;
constexpr int kMaxSums = kBins / 2 + kBins;  // counts in pairs, then masses
constexpr int kMaxPerThread = 255;           // counts of one thread fit into a byte
constexpr float kOne = 17592186044416.f;     // 2^44
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr uint32_t kLowestKey = 0x00800000u;   // of the smallest finite number; -inf lies below
constexpr uint32_t kHighestKey = 0xff7fffffu;  // of the largest; +inf and NaN lie above
constexpr int kLoads = 8;                      // 16-byte loads a thread has on their way at once
constexpr uint32_t kAll = 0xffffffffu;

struct Arguments {
  const void* logits;
  const SamplingRow* rows;
  SamplingResult* results;
  float* scratch;  // [R, padded row] where rows do not fit into shared memory
  const int32_t* mask;
  const int32_t* bias_offsets;
  const int32_t* bias_ids;
  const float* bias_values;
  uint16_t* counts;
  const int32_t* prompt_seen;
  int32_t* latest;
  int64_t logits_stride;
  int num_valid;
  int vocabulary;    // width of counts
  int mask_words;    // width of mask
  int seen_words;    // width of prompt_seen
  int num_masks;
  int num_seats;
  int per_thread;    // odd, so that neighbours' runs start in different banks
  bool logits_are_bf16;
};

__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

// A barrier of all threads of the cluster in two halves; orders their shared and global accesses.
__device__ __forceinline__ void cluster_arrive() {
  __syncwarp();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
  __syncwarp();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Stores to where `pointer` is in the shared memory of the cluster's block `rank`.
__device__ __forceinline__ void store_at_rank(uint64_t* pointer, unsigned rank, uint64_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(address), "l"(value) : "memory");
#else
  *pointer = value;
#endif
}

// Larger floats have larger keys; no NaNs, and -0 has become +0.
__device__ __forceinline__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// The same with NaNs above everything.
__device__ __forceinline__ uint32_t key_or_nan(float value) {
  return value == value ? key_of(value) : 0xffffffffu;
}

struct Sum {
  __device__ static uint64_t combine(uint64_t a, uint64_t b) { return a + b; }
};

struct Max {
  __device__ static uint64_t combine(uint64_t a, uint64_t b) { return a > b ? a : b; }
};

struct Shared {
  uint64_t of_warp[kWarps][kMaxSums];
  // What each block of the cluster sent here; two, because a neighbour may be a step ahead.
  uint64_t of_block[2][kMaxSums][kClusterSize];
  uint64_t total[kMaxSums];
};

// What keys a filter keeps: all above `key`, and the first `ties` (in id order) of those equal.
struct Cut {
  uint32_t key;
  uint32_t ties;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(bf16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void unpack(const uint4& bits, float (&v)[4]) {
  v[0] = __uint_as_float(bits.x), v[1] = __uint_as_float(bits.y);
  v[2] = __uint_as_float(bits.z), v[3] = __uint_as_float(bits.w);
}
__device__ __forceinline__ void unpack(const uint4& bits, float (&v)[8]) { unpack_8(bits, v); }

template <int kCluster>
class Row {
 public:
  __device__ Row(Shared& shared, float* values, int per_thread)
      : shared_(shared),
        values_(values),
        per_thread_(per_thread),
        rank_(kCluster > 1 ? cluster_rank() : 0) {}

  __device__ int first_id() const { return static_cast<int>(rank_) * kThreads * per_thread_; }
  __device__ int block_values() const { return kThreads * per_thread_; }
  // The thread's own run of neighbouring values, for everything that depends on the ids' order.
  __device__ int run_begin() const { return threadIdx.x * per_thread_; }
  __device__ int run_end() const { return run_begin() + per_thread_; }
  __device__ unsigned rank() const { return rank_; }
  __device__ float& operator[](int i) { return values_[i]; }

  // Blocks must not send before their neighbours run: arrive first, wait before the first exchange.
  __device__ void arrive() const {
    if (kCluster > 1) cluster_arrive();
  }
  __device__ void wait() const {
    if (kCluster > 1) cluster_wait();
  }
  __device__ void sync() const {
    if (kCluster > 1) {
      cluster_arrive();
      cluster_wait();
    } else {
      __syncthreads();
    }
  }

  // Combines each of N values over all threads of the cluster; everybody gets the results.
  template <class Op, int N>
  __device__ void combine(uint64_t (&v)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int mask = 16; mask > 0; mask >>= 1) {
        v[n] = Op::combine(v[n], __shfl_xor_sync(0xffffffffu, v[n], mask));
      }
    }
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int n = 0; n < N; ++n) shared_.of_warp[threadIdx.x / 32][n] = v[n];
    }
    __syncthreads();
    if (threadIdx.x < N * kCluster) {
      const int n = threadIdx.x / kCluster;
      uint64_t mine = shared_.of_warp[0][n];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) mine = Op::combine(mine, shared_.of_warp[w][n]);
      store_at_rank(&shared_.of_block[parity_][n][rank_], threadIdx.x % kCluster, mine);
    }
    sync();
    if (N <= 2) {
#pragma unroll
      for (int n = 0; n < N; ++n) v[n] = of_all<Op>(n);
    } else {
      if (threadIdx.x < N) shared_.total[threadIdx.x] = of_all<Op>(threadIdx.x);
      __syncthreads();
#pragma unroll
      for (int n = 0; n < N; ++n) v[n] = shared_.total[n];
    }
    parity_ ^= 1;
  }

  // The largest key over all threads of the cluster.
  __device__ uint32_t highest(uint32_t key) {
    key = __reduce_max_sync(0xffffffffu, key);
    if (threadIdx.x % 32 == 0) shared_.of_warp[threadIdx.x / 32][0] = key;
    __syncthreads();
    if (threadIdx.x < 32) {
      const unsigned lane = threadIdx.x;
      key = lane < kWarps ? static_cast<uint32_t>(shared_.of_warp[lane][0]) : 0;
      key = __reduce_max_sync(0xffffffffu, key);
      if (lane < kCluster) store_at_rank(&shared_.of_block[parity_][0][rank_], lane, key);
    }
    sync();
    const uint64_t all = of_all<Max>(0);
    parity_ ^= 1;
    return static_cast<uint32_t>(all);
  }

  // The sum of `value` over all earlier threads (lower ids); `total` over all.
  __device__ uint64_t sum_before(uint64_t value, uint64_t& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint64_t upto = value;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint64_t other = __shfl_up_sync(0xffffffffu, upto, distance);
      if (lane >= distance) upto += other;
    }
    if (lane == 31) shared_.of_warp[warp][0] = upto;
    __syncthreads();
    uint64_t before = upto - value, block = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const uint64_t of_warp = shared_.of_warp[w][0];
      if (w < warp) before += of_warp;
      block += of_warp;
    }
    if (threadIdx.x < kCluster) {
      store_at_rank(&shared_.of_block[parity_][0][rank_], threadIdx.x, block);
    }
    sync();
    total = 0;
#pragma unroll
    for (unsigned r = 0; r < kCluster; ++r) {
      const uint64_t of_block = shared_.of_block[parity_][0][r];
      if (r < rank_) before += of_block;
      total += of_block;
    }
    parity_ ^= 1;
    return before;
  }

  // The cut that keeps the fewest most likely values whose amount reaches target_of(total); amounts
  // are numbers of values, or (by mass) sums of weight(value). Keeps all when they do not reach it.
  //
  // The first look divides the values by their distance from the highest, in steps of `scale` that
  // double; each further one divides what holds the target into eight equal ranges of keys.
  template <bool kByMass, class Weight, class Target>
  __device__ Cut find_cut(uint32_t highest, float scale, const Weight& weight,
                          const Target& target_of) {
    const float top = value_of(highest);
    uint32_t edges[kBins + 1];
    edges[0] = kLowestKey;
    edges[kBins] = highest + 1;
    float distance = 32.f;
#pragma unroll
    for (int b = 1; b < kBins; ++b, distance *= 0.5f) {
      edges[b] = max(kLowestKey, key_of(top - distance * scale));
    }
    uint32_t left = per_thread_ >= 32 ? kAll : (1u << per_thread_) - 1;
    uint64_t sums[kByMass ? kMaxSums : kBins / 2];
    tally<kByMass>(left, sums, weight, [&](uint32_t key) {
      if (key < kLowestKey) return -1;
      int bin = 0;
#pragma unroll
      for (int b = 1; b < kBins; ++b) bin += key >= edges[b];
      return bin;
    });
    uint64_t target = 0;
#pragma unroll
    for (int b = 0; b < kBins; ++b) target += amount_of<kByMass>(sums, b);
    const uint64_t total = target;
    target = target_of(total);
    if (total < target) return {kLowestKey - 1, 0};

    uint64_t above = 0;
    uint32_t low = 0, width = 0;
    int shift = 0;
    bool is_first = true;
    while (true) {
      bool found = false;
      uint64_t population = 0, amount = 0;
      uint32_t next_low = 0, next_high = 0;
#pragma unroll
      for (int b = kBins - 1; b >= 0; --b) {
        const uint64_t here = population_of(sums, b);
        const uint64_t gain = amount_of<kByMass>(sums, b);
        if (!found && above + gain >= target && here > 0) {
          found = true;
          population = here;
          amount = gain;
          const uint64_t begin = static_cast<uint64_t>(b) << shift;
          const uint64_t end = min(static_cast<uint64_t>(width), begin + (uint64_t{1} << shift));
          next_low = is_first ? edges[b] : low + static_cast<uint32_t>(begin);
          next_high = is_first ? edges[b + 1] : low + static_cast<uint32_t>(end);
        }
        if (!found) above += gain;
      }
      is_first = false;
      low = next_low;
      width = next_high - next_low;
      if (population == 1 || (!kByMass && above + amount == target)) return {low - 1, 0};
      if (width == 1) {
        const uint64_t needed = target - above;
        const uint64_t each = kByMass ? weight(value_of(low)) : 1;
        return {low, static_cast<uint32_t>((needed + each - 1) / each)};
      }
      shift = max(0, 32 - __clz(width - 1) - 3);  // width <= 8 << shift
      tally<kByMass>(left, sums, weight, [=](uint32_t key) {
        const uint32_t offset = key - low;  // what is below low wraps round
        return offset < width ? static_cast<int>(offset >> shift) : -1;
      });
    }
  }

  // Calls keep(i) or drop(i) for each of the thread's values, in order of their ids.
  template <class Keep, class Drop>
  __device__ void apply(const Cut& cut, const Keep& keep, const Drop& drop) {
    uint64_t ties = 0;
    if (cut.ties > 0) {
      uint64_t mine = 0, total;
      for (int i = run_begin(); i < run_end(); ++i) mine += key_of(values_[i]) == cut.key;
      ties = sum_before(mine, total);
    }
    for (int i = run_begin(); i < run_end(); ++i) {
      const uint32_t key = key_of(values_[i]);
      if (key > cut.key || (key == cut.key && ties++ < cut.ties)) {
        keep(i);
      } else {
        drop(i);
      }
    }
  }

  // Values that the cut drops become -inf.
  __device__ void drop_below(const Cut& cut) {
    apply(cut, [](int) {}, [this](int i) { values_[i] = -INFINITY; });
  }

  // The largest key; above kHighestKey when there is a NaN or +inf. Each thread looks at what it
  // reaches by strides.
  __device__ uint32_t highest_key() {
    uint32_t mine = 0;
    for (int i = threadIdx.x; i < block_values(); i += kThreads) {
      mine = max(mine, key_or_nan(values_[i]));
    }
    return highest(mine);
  }

 private:
  // Sums of the values by bin_of(key), over the cluster: numbers in pairs, then masses. A value
  // whose bin is -1 leaves `left`, the bits of the thread's values still of interest.
  template <bool kByMass, int N, class Weight, class BinOf>
  __device__ void tally(uint32_t& left, uint64_t (&sums)[N], const Weight& weight,
                        const BinOf& bin_of) {
    uint64_t counts = 0, masses[kByMass ? kBins : 1] = {};
    const auto add = [&](int i) {
      const int bin = bin_of(key_of(values_[i]));
      if (bin < 0) return false;
      counts += uint64_t{1} << (8 * bin);
      if (kByMass) {
        const uint64_t w = weight(values_[i]);
#pragma unroll
        for (int b = 0; b < kBins; ++b) masses[b] += b == bin ? w : 0;
      }
      return true;
    };
    if (per_thread_ <= 32) {
      for (uint32_t todo = left; todo != 0; todo &= todo - 1) {
        const int i = __ffs(todo) - 1;
        if (!add(run_begin() + i)) left &= ~(1u << i);
      }
    } else {
      for (int i = run_begin(); i < run_end(); ++i) add(i);
    }
#pragma unroll
    for (int b = 0; b < kBins / 2; ++b) {
      sums[b] = (counts >> (16 * b) & 255) | (counts >> (16 * b + 8) & 255) << 32;
    }
    if (kByMass) {
#pragma unroll
      for (int b = 0; b < kBins; ++b) sums[N - kBins + b] = masses[b];
    }
    combine<Sum>(sums);
  }

  template <int N>
  __device__ static uint64_t population_of(const uint64_t (&sums)[N], int bin) {
    return sums[bin / 2] >> (32 * (bin % 2)) & kAll;
  }

  template <bool kByMass, int N>
  __device__ static uint64_t amount_of(const uint64_t (&sums)[N], int bin) {
    return kByMass ? sums[N - kBins + bin] : population_of(sums, bin);
  }

  template <class Op>
  __device__ uint64_t of_all(int n) const {
    uint64_t all = shared_.of_block[parity_][n][0];
#pragma unroll
    for (int r = 1; r < kCluster; ++r) all = Op::combine(all, shared_.of_block[parity_][n][r]);
    return all;
  }

  Shared& shared_;
  float* values_;
  int per_thread_;
  unsigned rank_;
  int parity_ = 0;
};

__device__ __forceinline__ bool bit_of(const int32_t* words, int bit) {
  return static_cast<uint32_t>(words[bit >> 5]) >> (bit & 31) & 1u;
}

// The row's values into shared memory: 16 bytes at a time, many loads on their way. Returns the
// thread's largest key. Rows must start at multiples of 16 bytes.
template <class T, int kCluster>
__device__ uint32_t load_row(Row<kCluster>& values, const T* logits, int num_valid) {
  constexpr int kWidth = 16 / sizeof(T);
  const int vectors = values.block_values() / kWidth;
  uint32_t highest = 0;
  for (int first = threadIdx.x; first < vectors; first += kThreads * kLoads) {
    uint4 loaded[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int id = values.first_id() + (first + j * kThreads) * kWidth;
      // Past the end anything readable will do.
      loaded[j] = load_16(logits + (id + kWidth <= num_valid ? id : 0));
    }
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int vector = first + j * kThreads;
      if (vector >= vectors) break;
      const int id = values.first_id() + vector * kWidth;
      float v[kWidth];
      unpack(loaded[j], v);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (id + kWidth > num_valid) v[e] = id + e < num_valid ? to_float(logits[id + e]) : -INFINITY;
        v[e] += 0.f;
        highest = max(highest, key_or_nan(v[e]));
      }
#pragma unroll
      for (int e = 0; e < kWidth; e += 4) {
        *reinterpret_cast<float4*>(&values[vector * kWidth + e]) =
            make_float4(v[e], v[e + 1], v[e + 2], v[e + 3]);
      }
    }
  }
  return highest;
}

// The same for rows that start anywhere.
template <class T, int kCluster>
__device__ uint32_t load_unaligned_row(Row<kCluster>& values, const T* logits, int num_valid) {
  uint32_t highest = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < values.block_values(); i += kThreads) {
    const int id = values.first_id() + i;
    const float value = id < num_valid ? to_float(logits[id]) + 0.f : -INFINITY;
    highest = max(highest, key_or_nan(value));
    values[i] = value;
  }
  return highest;
}

template <class T, int kCluster>
__device__ uint32_t load(Row<kCluster>& values, const Arguments& a, int64_t row) {
  const T* logits = static_cast<const T*>(a.logits) + row * a.logits_stride;
  return a.logits_stride * sizeof(T) % 16 == 0 && a.num_valid >= 16 / static_cast<int>(sizeof(T))
             ? load_row(values, logits, a.num_valid)
             : load_unaligned_row(values, logits, a.num_valid);
}

__device__ bool has_penalty(const SamplingRow& row) {
  return row.repetition != 1.f || row.frequency != 0.f || row.presence != 0.f;
}

// Penalties, then biases; every value is touched by one thread at a time.
template <int kCluster>
__device__ void adjust(Row<kCluster>& values, const SamplingRow& row, const Arguments& a,
                       int bias_begin, int bias_end) {
  const bool has_seat = row.seat >= 0 && row.seat < a.num_seats;
  if (has_penalty(row) && has_seat && a.counts != nullptr) {
    const uint16_t* counts = a.counts + static_cast<int64_t>(row.seat) * a.vocabulary;
    const int32_t* seen = a.prompt_seen == nullptr
                              ? nullptr
                              : a.prompt_seen + static_cast<int64_t>(row.seat) * a.seen_words;
    for (int i = threadIdx.x; i < values.block_values(); i += kThreads) {
      const int id = values.first_id() + i;
      if (id >= a.num_valid) break;
      const int count = counts[id];
      float value = values[i];
      if (count > 0 || (seen != nullptr && bit_of(seen, id))) {
        value = value > 0.f ? value / row.repetition : value * row.repetition;
      }
      if (count > 0) value -= static_cast<float>(count) * row.frequency + row.presence;
      values[i] = value + 0.f;
    }
    __syncthreads();
  }
  for (int e = bias_begin + threadIdx.x; e < bias_end; e += kThreads) {
    const int i = a.bias_ids[e] - values.first_id();
    if (i >= 0 && i < values.block_values() && a.bias_ids[e] < a.num_valid) {
      atomicAdd(&values[i], a.bias_values[e]);  // an id may have a bias and a ban
    }
  }
  __syncthreads();
}

// The row's most likely tokens by raw logits, in descending order, lower ids first among equals.
template <int kCluster>
__device__ void report_top(Row<kCluster>& values, SamplingResult& result, int wanted,
                           uint32_t highest, float log_sum) {
  const float top = value_of(highest);
  const Cut cut = values.template find_cut<false>(
      highest, 1.f, [](float) { return uint64_t{0}; },
      [=](uint64_t all) { return min(all, static_cast<uint64_t>(wanted)); });
  uint64_t mine = 0, total;
  values.apply(cut, [&](int) { ++mine; }, [](int) {});
  mine = values.sum_before(mine, total);
  values.apply(
      cut,
      [&](int i) {
        result.top_ids[mine] = values.first_id() + i;
        result.top_logprobs[mine] = values[i];
        ++mine;
      },
      [](int) {});
  __threadfence();
  values.sync();
  if (values.rank() == 0 && threadIdx.x < 32) {
    const int count = static_cast<int>(total), lane = threadIdx.x;
    const volatile SamplingResult& unsorted = result;
    const float value = lane < count ? unsorted.top_logprobs[lane] : -INFINITY;
    const int id = lane < count ? unsorted.top_ids[lane] : 0x7fffffff;
    int place = 0;
    for (int other = 0; other < count; ++other) {
      const float other_value = __shfl_sync(0xffffffffu, value, other);
      const int other_id = __shfl_sync(0xffffffffu, id, other);
      place += other_value > value || (other_value == value && other_id < id);
    }
    __syncwarp();
    if (lane < count) {
      result.top_ids[place] = id;
      result.top_logprobs[place] = value - top - log_sum;
    }
    if (lane == 0) result.num_top = count;
  }
}

__device__ float raw_logit(const Arguments& a, int64_t row, int id) {
  const int64_t place = row * a.logits_stride + id;
  return a.logits_are_bf16 ? __bfloat162float(static_cast<const bf16*>(a.logits)[place])
                           : static_cast<const float*>(a.logits)[place];
}

// One thread of the cluster calls this.
__device__ void choose(const Arguments& a, const SamplingRow& row, int64_t index, int token,
                       float raw_max, float log_sum) {
  SamplingResult& result = a.results[index];
  result.token = token;
  result.status = static_cast<int32_t>(SamplingStatus::kOk);
  result.logprob = row.num_top >= 0 ? raw_logit(a, index, token) - raw_max - log_sum : 0.f;
  if (row.seat < 0 || row.seat >= a.num_seats) return;
  if (a.latest != nullptr) a.latest[row.seat] = token;
  if (a.counts != nullptr && has_penalty(row)) {
    uint16_t& count = a.counts[static_cast<int64_t>(row.seat) * a.vocabulary + token];
    if (count < 0xffff) ++count;
  }
}

template <int kCluster, bool kInShared>
__global__ void __launch_bounds__(kThreads, 2) sample_kernel(const Arguments a) {
  extern __shared__ __align__(16) float row_values[];
  __shared__ Shared shared;
  const int64_t index = blockIdx.x / kCluster;
  float* storage = row_values;
  if (!kInShared) storage = a.scratch + static_cast<int64_t>(blockIdx.x) * kThreads * a.per_thread;
  Row<kCluster> values(shared, storage, a.per_thread);
  values.arrive();
  pdl_trigger();
  pdl_wait();
  const SamplingRow row = a.rows[index];
  int bias_begin = 0, bias_end = 0;
  if (a.bias_offsets != nullptr) {
    bias_begin = a.bias_offsets[index];
    bias_end = a.bias_offsets[index + 1];
  }
  SamplingResult& result = a.results[index];
  const bool is_first = values.rank() == 0 && threadIdx.x == 0;
  if (is_first) {
    result.token = 0;
    result.status = static_cast<int32_t>(SamplingStatus::kOk);
    result.logprob = 0.f;
    result.num_top = 0;
  }
  const uint32_t mine_highest = row.position < 0       ? 0
                                : a.logits_are_bf16 ? load<bf16>(values, a, index)
                                                    : load<float>(values, a, index);
  values.wait();
  if (row.position < 0) return;  // the whole cluster

  const auto give_up = [&](SamplingStatus status) {
    if (is_first) result.status = static_cast<int32_t>(status);
  };
  uint32_t highest = values.highest(mine_highest);
  if (highest > kHighestKey || highest < kLowestKey) return give_up(SamplingStatus::kNotFinite);
  const float raw_max = value_of(highest);
  float log_sum = 0.f;
  if (row.num_top >= 0) {
    uint64_t sum[1] = {0};
    for (int i = threadIdx.x; i < values.block_values(); i += kThreads) {
      sum[0] += __float2ull_rn(exp2f((values[i] - raw_max) * kLog2E) * kOne);
    }
    values.template combine<Sum>(sum);
    log_sum = static_cast<float>((log2(static_cast<double>(sum[0])) - 44.0) * kLn2);
    if (row.num_top > 0) {
      report_top(values, result, min(row.num_top, kMaxTopLogprobs), highest, log_sum);
    }
  }

  if (has_penalty(row) || bias_end > bias_begin) {
    adjust(values, row, a, bias_begin, bias_end);
    highest = values.highest_key();
    if (highest > kHighestKey) return give_up(SamplingStatus::kNotFinite);
    if (highest < kLowestKey) return give_up(SamplingStatus::kNoneLeft);
  }
  if (row.mask_row >= 0 && row.mask_row < a.num_masks) {
    const int32_t* mask = a.mask + static_cast<int64_t>(row.mask_row) * a.mask_words;
    for (int i = threadIdx.x; i < values.block_values(); i += kThreads) {
      const int id = values.first_id() + i;
      if (id >= a.num_valid) break;
      if (!bit_of(mask, id)) values[i] = -INFINITY;
    }
    highest = values.highest_key();
    if (highest < kLowestKey) return give_up(SamplingStatus::kNoneLeft);
  }

  if (row.temperature <= 0.f) {
    // Larger keys first, then lower ids.
    uint64_t best[1] = {0};
    for (int i = threadIdx.x; i < values.block_values(); i += kThreads) {
      const uint32_t id = static_cast<uint32_t>(values.first_id() + i);
      best[0] = max(best[0], static_cast<uint64_t>(key_of(values[i])) << 32 | (kAll - id));
    }
    values.template combine<Max>(best);
    const int token = static_cast<int>(kAll - static_cast<uint32_t>(best[0]));
    if (is_first) choose(a, row, index, token, raw_max, log_sum);
    return;
  }

  const float top = value_of(highest);
  const float temperature = fmaxf(row.temperature, 1e-20f);
  const float inverse = 1.f / temperature;
  const auto weight = [=](float value) {
    return __float2ull_rn(exp2f((value - top) * inverse * kLog2E) * kOne);
  };
  if (row.min_p > 0.f) {
    const float limit = logf(row.min_p);
    for (int i = threadIdx.x; i < values.block_values(); i += kThreads) {
      if (!((values[i] - top) * inverse >= limit)) values[i] = -INFINITY;
    }
    __syncthreads();
  }
  if (row.top_k > 0 && row.top_k < a.num_valid) {
    const uint64_t wanted = static_cast<uint64_t>(row.top_k);
    values.drop_below(values.template find_cut<false>(highest, 1.f, weight,
                                                      [=](uint64_t) { return wanted; }));
  }
  if (row.top_p < 1.f) {
    const double share = static_cast<double>(row.top_p);
    values.drop_below(values.template find_cut<true>(highest, temperature, weight, [=](uint64_t mass) {
      const double wanted = fmax(1.0, ceil(share * static_cast<double>(mass)));
      return min(mass, static_cast<uint64_t>(wanted));
    }));
  }
  __syncthreads();
  // In the shadow of the weights, which wait for the special function units.
  const uint64_t raw = philox_raw(row.key[0], row.key[1], static_cast<uint64_t>(row.position));
  uint64_t mine = 0, total;
  for (int i = values.run_begin(); i < values.run_end(); ++i) mine += weight(values[i]);
  const uint64_t before = values.sum_before(mine, total);
  // u · total with u = (raw >> 11) · 2^-53, rounded down: below the total, whatever u is.
  const uint64_t target = multiply_high(raw & ~uint64_t{2047}, total);
  // The warp whose values hold the target looks for it together, a value a lane.
  const unsigned holder = __ballot_sync(kAll, target >= before && target < before + mine);
  if (holder == 0) return;
  const int source = __ffs(holder) - 1, lane = threadIdx.x % 32;
  uint64_t sum = __shfl_sync(kAll, before, source);
  const int begin = __shfl_sync(kAll, values.run_begin(), source);
  for (int i = begin; i < begin + a.per_thread; i += 32) {
    uint64_t upto = i + lane < begin + a.per_thread ? weight(values[i + lane]) : 0;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint64_t other = __shfl_up_sync(kAll, upto, distance);
      if (lane >= distance) upto += other;
    }
    const unsigned beyond = __ballot_sync(kAll, sum + upto > target);
    if (beyond != 0) {
      const int token = values.first_id() + i + __ffs(beyond) - 1;
      if (lane == 0) choose(a, row, index, token, raw_max, log_sum);
      return;
    }
    sum += __shfl_sync(kAll, upto, 31);
  }
}

void check_tables(const SamplingTables& t, const Tensor& logits) {
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  const int64_t words = (vocabulary + 31) / 32;
  if (t.mask.defined()) expect(t.mask, "mask", DType::kI32, {-1, words}, logits);
  if (t.bias_offsets.defined() || t.bias_ids.defined() || t.bias_values.defined()) {
    expect(t.bias_offsets, "bias_offsets", DType::kI32, {rows + 1}, logits);
    expect(t.bias_ids, "bias_ids", DType::kI32, {-1}, logits);
    expect(t.bias_values, "bias_values", DType::kF32, {t.bias_ids.size(0)}, logits);
  }
  int64_t seats = -1;
  if (t.counts.defined()) {
    expect(t.counts, "counts", DType::kU16, {-1, vocabulary}, logits);
    seats = t.counts.size(0);
  }
  if (t.prompt_seen.defined()) {
    if (!t.counts.defined()) fail("prompt_seen: only together with counts");
    expect(t.prompt_seen, "prompt_seen", DType::kI32, {seats, words}, logits);
  }
  if (t.latest.defined()) expect(t.latest, "latest", DType::kI32, {seats}, logits);
}

template <class T>
T* pointer_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.ptr<T>() : nullptr;
}

}  // namespace

Tensor sample(const Tensor& logits, const Tensor& rows, const SamplingTables& tables,
              int64_t num_valid, bool spread) {
  const bool is_bf16 = logits.defined() && logits.dtype() == DType::kBF16;
  expect(logits, "logits", is_bf16 ? DType::kBF16 : DType::kF32, {-1, -1});
  const int64_t count = logits.size(0), vocabulary = logits.size(1);
  expect(rows, "rows", DType::kU8, {count, static_cast<int64_t>(sizeof(SamplingRow))}, logits);
  if (num_valid < 1 || num_valid > vocabulary) {
    fail("num_valid: " + std::to_string(num_valid) + " is not between 1 and the " +
         std::to_string(vocabulary) + " columns of logits");
  }
  check_tables(tables, logits);
  Context& context = logits.context();
  Tensor results = context.empty({count, static_cast<int64_t>(sizeof(SamplingResult) / 4)}, DType::kI32);
  if (count == 0) return results;

  const auto per_thread_of = [num_valid](int blocks) {
    const int64_t threads = static_cast<int64_t>(blocks) * kThreads;
    return static_cast<int>((num_valid + threads - 1) / threads) | 1;
  };
  const size_t shared_bytes = sizeof(float) * kThreads * per_thread_of(kClusterSize);
  const bool in_cluster =
      spread && context.capability() >= 90 && shared_bytes + sizeof(Shared) + 1024 <= context.max_shared_bytes();
  Arguments a{};
  a.per_thread = per_thread_of(in_cluster ? kClusterSize : 1);
  if (a.per_thread > kMaxPerThread) {
    fail("logits: a vocabulary of " + std::to_string(num_valid) + " is too large; the limit is " +
         std::to_string(kMaxPerThread * kThreads));
  }
  a.logits = logits.data();
  a.rows = rows.ptr<SamplingRow>();
  a.results = results.ptr<SamplingResult>();
  a.mask = pointer_or_null<int32_t>(tables.mask);
  a.bias_offsets = pointer_or_null<int32_t>(tables.bias_offsets);
  a.bias_ids = pointer_or_null<int32_t>(tables.bias_ids);
  a.bias_values = pointer_or_null<float>(tables.bias_values);
  a.counts = pointer_or_null<uint16_t>(tables.counts);
  a.prompt_seen = pointer_or_null<int32_t>(tables.prompt_seen);
  a.latest = pointer_or_null<int32_t>(tables.latest);
  a.logits_stride = vocabulary;
  a.num_valid = static_cast<int>(num_valid);
  a.vocabulary = static_cast<int>(vocabulary);
  a.mask_words = a.seen_words = static_cast<int>((vocabulary + 31) / 32);
  a.num_masks = tables.mask.defined() ? static_cast<int>(tables.mask.size(0)) : 0;
  a.num_seats = tables.latest.defined()   ? static_cast<int>(tables.latest.size(0))
                : tables.counts.defined() ? static_cast<int>(tables.counts.size(0))
                                          : 0;
  a.logits_are_bf16 = is_bf16;
  if (in_cluster) {
    launch_clusters(context, kClusterSize, sample_kernel<kClusterSize, true>,
                    dim3(static_cast<unsigned>(count * kClusterSize)), dim3(kThreads), shared_bytes, a);
    return results;
  }
  const Tensor scratch = context.empty({count, static_cast<int64_t>(kThreads) * a.per_thread}, DType::kF32);
  a.scratch = scratch.ptr<float>();
  launch(context, sample_kernel<1, false>, dim3(static_cast<unsigned>(count)), dim3(kThreads), 0, a);
  return results;
}

}  // namespace ernie
