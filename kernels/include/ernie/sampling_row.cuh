// One row of logits on its way to a token, the work of a cluster of blocks or of one block: what
// its threads look at, and what they do with it. Bodies are with what they are about: how blocks
// meet in sampling_messages.cuh, entries in sampling_entries.cuh, the search for a cut in
// sampling_search.cuh.
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

union Bins {
  uint64_t sums[kBins];
  uint32_t halves[kBins][2];  // lower and upper half of a sum
  uint64_t weights[kGathered];
};

template <int kCluster>
struct RowShared {
  // What each warp of the cluster sent here; two, because a neighbour may be a step ahead.
  Message of_warp[2][kCluster * kSamplingWarps];
  uint64_t gathered[kGathered];
  Bins bins[2];
  int rounds;  // of searches so far
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

  __device__ void arrive() const;
  __device__ void wait() const;
  // Orders everything, which takes its time.
  __device__ void sync() const;

  // The warp's message, the same in all lanes, to every block. What was received last must not be
  // looked at from then on.
  __device__ void send(uint64_t amount, uint64_t number) const;

  // What all warps sent, in the order of their ids. When it is here, every thread of the cluster
  // is done with what it did before it sent.
  __device__ const Message* receive();

  // The largest of the upper and lower halves of amounts.
  __device__ uint2 highest_of(const Message* received) const;

  // Sums over all warps and over those with lower ids.
  struct Place {
    uint64_t before, total;
  };
  template <class Part>
  __device__ Place place_of_warp(const Message* received, const Part& part) const;

  // Of values below 2^61; in parts that the hardware adds.
  __device__ static uint64_t sum_of_warp(uint64_t value);

  template <class T>
  __device__ static T scan_warp(T value);

  // ---- entries of few tokens: all tell how many they have, then those who need them get them

  // The thread's values that a floor keeps; their bits only where a run has no more than 32.
  struct Taken {
    uint32_t number = 0, bits = 0;
  };
  __device__ Taken take(float thread_highest, const Floor& floor) const;

  // Calls use(i, value) for each of them.
  template <class Use>
  __device__ void each_taken(const Taken& taken, const Floor& floor, const Use& use) const;

  // The thread's entries, those of what is taken that `posts`, to block `to` or to all (`to` =
  // kCluster); the warp's first one has number `first`.
  template <class Posts>
  __device__ void post(unsigned to, uint32_t first, const Taken& taken, const Floor& floor,
                       const Posts& posts);

  // Blocks that get entries wait for them.
  __device__ void collect(uint32_t count);

  // About the k-th largest of the warps' lower halves, such that at least k values are no smaller;
  // the lowest key when there are fewer warps. Ends in a barrier of the block.
  __device__ uint32_t kth_maximum(const Message* received, int k);

  // Bins for the block alone: other blocks add up those of a search's last round, until the cluster
  // meets in the next round.
  __device__ Bins& free_bins() { return shared_.bins[shared_.rounds & 1]; }

  // What the bin held before.
  __device__ static uint64_t add_to_bin(Bins& bins, int bin, uint64_t amount);

  // The cut that keeps the fewest most likely entries, of those `floor` keeps, whose amount reaches
  // `target`: numbers of values, or (by mass) sums of weights. Keeps all that do not reach it.
  __device__ uint64_t find_cut(bool by_mass, const Weigher& weigh, float thread_highest,
                               float low_value, const Floor& floor, uint64_t target);

 private:
  struct Found {
    uint64_t cut;
    int exchanges, collections;
  };
  // By value and apart from the caller's code, which is seldom in need of it: a row that lies in
  // registers stays there.
  __device__ __noinline__ static Found search(Row row, bool by_mass, Weigher weigh,
                                              float thread_highest, float low_value, Floor floor,
                                              uint64_t target);

  // Amounts are counted in bins, at first equal steps from the top to `low_value`, then equal ranges
  // of keys within what holds the target, until so few are left that they can be compared.
  __device__ uint64_t search_bins(bool by_mass, const Weigher& weigh, float thread_highest,
                                  float low_value, const Floor& floor, uint64_t target);

  // Values of a thread in a cluster that `floor` keeps, a bit each.
  __device__ __noinline__ static uint32_t kept_bits(const float* run, uint32_t first_id,
                                                    Floor floor);

  template <class Use>
  __device__ __forceinline__ void use_vector(int v, const Use& use) const {
    const float4 four = reinterpret_cast<const float4*>(values_ + run_begin_)[v];
    use(4 * v, four.x), use(4 * v + 1, four.y), use(4 * v + 2, four.z), use(4 * v + 3, four.w);
  }

  // Stores to where `place` is in block `rank` and counts the bytes on `barrier` there.
  __device__ void tell(Message* place, unsigned rank, Message message, uint64_t* barrier) const;
  __device__ void tell(uint64_t* place, unsigned rank, uint64_t entry, uint64_t* barrier) const;

  // All threads of the block: until `bytes` have been told.
  __device__ void wait_for(uint64_t* barrier, uint32_t bytes, int parity) const;

  __device__ uint64_t load_from(const void* pointer, unsigned rank) const;

  // The bin that holds the target, and what lies above it; -1 if all do not reach the target.
  __device__ int choose_bin(const Bins& bins, uint64_t target, uint64_t& above);

  // The lowest key whose value lies in bin `bin` or above; each warp searches by itself.
  template <class BinOf>
  __device__ static uint32_t edge_of(const BinOf& bin_of, int bin, uint32_t highest);

  // The entry at which the gathered ones reach the target.
  __device__ uint64_t compare(bool by_mass, const Weigher& weigh, int count, uint64_t above,
                              uint64_t target);

  // Keeps the first `wanted` of the tokens of equal value, which are among the `left` ones.
  __device__ uint64_t cut_ties(uint32_t key, const Taken& left, const Floor& floor,
                               uint64_t wanted);

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
