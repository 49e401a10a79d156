// Which splits of which contexts a block attends to, derived on the device from the lengths alone.
//
// A context is cut into splits by its own length. All splits of all (sequence, KV head) lie in one
// list, each as long as its tiles and a constant for the work that every split makes; block b takes
// the splits that start in the b-th of equal parts of it. So blocks get equal work, and splits of
// one head that lie in one block follow each other.
//
// Every launch fetches its instructions anew, and waits for them: little code counts here.
#pragma once

#include <cstdint>

namespace ernie {

constexpr int kWalkTile = 32;      // keys
constexpr int kSplitOverhead = 4;  // in tiles

// Which part of the work a block takes. Where there are two blocks for each multiprocessor, its two
// take neighbouring parts, so that little work is spread over all of them: the first half of the
// blocks is expected to have a multiprocessor each.
__device__ __forceinline__ int part_of_block(bool paired) {
  const int block = static_cast<int>(blockIdx.x);
  const int half = static_cast<int>(gridDim.x) / 2;
  if (!paired) return block;
  return block < half ? block * 2 : (block - half) * 2 + 1;
}

// All powers of two.
struct SplitRule {
  int log_most;   // splits of a context
  int log_whole;  // keys up to which joining splits costs more than it saves
  int log_least;  // keys of a split

  // Keys of a split.
  __device__ __forceinline__ int log_keys(int context) const {
    if (context <= 1 << log_whole) return log_whole;
    return max(log_least, 32 - __clz((context - 1) >> log_most));
  }
  // At least one, so that an empty row has somebody to write its zeros.
  __device__ __forceinline__ int splits(int context) const {
    const int log = log_keys(context);
    return max(1, (context + (1 << log) - 1) >> log);
  }
  // Length of a (sequence, KV head) in the list.
  __device__ __forceinline__ int length(int context) const {
    return (context + kWalkTile - 1) / kWalkTile + kSplitOverhead * splits(context);
  }
};

// A block's splits in ascending order. All lanes of a warp call together and hold the same values.
// context_of(sequence) gives a length that is not negative.
template <class ContextOf>
class SplitWalk {
 public:
  static constexpr int kHeld = 8;

  int sequence = -1;  // -1: no more
  int kv_head = 0;
  int split = 0;
  int splits = 1;
  int context = 0;

  __device__ SplitWalk(SplitRule rule, int sequences, int nkv, ContextOf context_of)
      : rule_(rule), sequences_(sequences), nkv_(nkv), context_of_(context_of) {}

  __device__ __forceinline__ int begin() const { return split << log_keys_; }
  __device__ __forceinline__ int end() const { return min(context, (split + 1) << log_keys_); }
  __device__ __forceinline__ int tiles() const {
    return (end() - begin() + kWalkTile - 1) / kWalkTile;
  }

  // To the first split of part `part` of `parts`.
  __device__ __forceinline__ void start(int part, int parts) {
    const int lane = threadIdx.x % 32;
    const int run = (sequences_ + 31) / 32;  // sequences of a lane
    const int first = lane * run;
    int held[kHeld], lengths[kHeld];  // of these if they are few: reading them takes long
    int mine = 0;
    if (run <= kHeld) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        held[i] = i < run && first + i < sequences_ ? context_of_(first + i) : -1;
      }
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        if (i >= run) break;
        lengths[i] = held[i] < 0 ? 0 : nkv_ * rule_.length(held[i]);
        mine += lengths[i];
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < run && first + i < sequences_; ++i) {
        mine += nkv_ * rule_.length(context_of_(first + i));
      }
    }
    int through = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int below = __shfl_up_sync(0xffffffffu, through, step);
      if (lane >= step) through += below;
    }
    const unsigned total = __shfl_sync(0xffffffffu, through, 31);
    const unsigned each = total / parts, longer = total - each * parts;
    const int target = static_cast<int>(part * each + min(unsigned(part), longer));
    stop_ = target + static_cast<int>(each + (unsigned(part) < longer));
    // The sequence in which the part begins is one of the lane's whose sums reach beyond it first.
    sequence = -1;
    place_ = through - mine;
    if (run <= kHeld) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        if (i >= run) break;
        choose(first + i, held[i], lengths[i], target);
      }
    } else if (place_ <= target && through > target) {
#pragma unroll 1
      for (int i = 0; i < run && first + i < sequences_; ++i) {
        const int length = context_of_(first + i);
        choose(first + i, length, nkv_ * rule_.length(length), target);
      }
    }
    const unsigned owners = __ballot_sync(0xffffffffu, place_ <= target && sequence >= 0);
    const int owner = owners == 0 ? 0 : __ffs(owners) - 1;
    sequence = __shfl_sync(0xffffffffu, sequence, owner);
    context = __shfl_sync(0xffffffffu, context, owner);
    place_ = __shfl_sync(0xffffffffu, place_, owner);
    if (target == stop_ || owners == 0) sequence = -1;  // no owner only if lengths change meanwhile
    if (sequence < 0) return;
    enter(context);
    const int within = target - place_;
    const int head = rule_.length(context);
    kv_head = within / head;
    split = (within - kv_head * head + stride() - 1) / stride();
    place_ += kv_head * head + split * stride();
    if (split >= splits) skip_head();
    if (place_ >= stop_) sequence = -1;
  }

  __device__ __forceinline__ void next() {
    ++split;
    place_ += stride();
    if (split == splits) skip_head();
    if (place_ >= stop_) sequence = -1;
  }

  template <class Other>
  __device__ __forceinline__ bool same_as(const SplitWalk<Other>& other) const {
    return sequence == other.sequence && kv_head == other.kv_head && split == other.split &&
           context == other.context;
  }

 private:
  // Length of a split in the list; the last one of a context may be shorter.
  __device__ __forceinline__ int stride() const {
    return (1 << log_keys_) / kWalkTile + kSplitOverhead;
  }

  // Chooses a sequence that begins at place_ if it is the first to reach beyond `target`.
  __device__ __forceinline__ void choose(int which, int its_context, int length, int target) {
    if (sequence >= 0) return;
    if (place_ + length > target) {
      sequence = which;
      context = its_context;
    } else {
      place_ += length;
    }
  }

  __device__ __forceinline__ void enter(int length) {
    context = length;
    log_keys_ = rule_.log_keys(length);
    splits = rule_.splits(length);
  }

  // From behind the last split to the next head.
  __device__ __forceinline__ void skip_head() {
    place_ += rule_.length(context) - split * stride();
    split = 0;
    if (++kv_head < nkv_) return;
    kv_head = 0;
    if (++sequence < sequences_) {
      enter(context_of_(sequence));
    } else {
      place_ = stop_;
    }
  }

  SplitRule rule_;
  int sequences_;
  int nkv_;
  ContextOf context_of_;
  int log_keys_ = 0;
  int place_ = 0;  // in the list
  int stop_ = 0;
};

}  // namespace ernie
