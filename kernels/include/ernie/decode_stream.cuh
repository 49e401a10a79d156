// The stream of keys and values of Hopper's decode attention: the shape of a block, its ring in
// shared memory and the warp that fills it.
#pragma once

#include "ernie/decode_heads.cuh"
#include "ernie/split_walk.cuh"

namespace ernie::decode_stream {

constexpr int kTile = kWalkTile;
constexpr int kStages = 6;  // of the ring; consumer warps
constexpr int kConsumers = kStages;
constexpr int kThreads = (kConsumers + 1) * 32;
constexpr int kHalfBytes = kTile * 128;  // 64 columns of a tile
constexpr int kPartBytes = 2 * kHalfBytes;
constexpr int kStageBytes = 2 * kPartBytes;  // keys, values
constexpr int kSumBytes = kConsumers * kMostHeads * 8;
constexpr int kBarrierBytes = 2 * kStages * 8 + 16;  // and whether the block came last

// Ring, sums, barriers, then the warps' outputs [warp][ratio][width + 4].
struct StreamShape {
  int box_rows;   // of one copy; divides the page and the tile
  int tail_rows;  // the same where a tile is not full
  int log_rounds;  // in which outputs are joined
  int paired;     // two blocks on each multiprocessor
  SplitRule rule;

  __host__ __device__ static int outputs_at() {
    return kStages * kStageBytes + kSumBytes + kBarrierBytes;
  }
  __host__ __device__ int bytes(int ratio) const {
    return outputs_at() + kConsumers * ratio * ((kHead >> log_rounds) + 4) * 4;
  }
};

// The copy engine's maps of the cache, by rows of a copy.
struct CacheMaps {
  CUtensorMap keys;
  CUtensorMap values;
  CUtensorMap tail_keys;
  CUtensorMap tail_values;
};

#if defined(ERNIE_HOPPER)

struct ContextOf {
  const DecodeArguments* p;
  __device__ int operator()(int sequence) const { return context_of<true>(*p, sequence); }
};

using Walk = SplitWalk<ContextOf>;

struct Ring {
  uint32_t base;

  __device__ uint32_t keys(int stage) const { return base + stage * kStageBytes; }
  __device__ uint32_t values(int stage) const { return keys(stage) + kPartBytes; }
  __device__ uint32_t full(int stage) const {
    return base + kStages * kStageBytes + kSumBytes + stage * 8;
  }
  __device__ uint32_t empty(int stage) const { return full(kStages + stage); }

  __device__ void init() const {
#pragma unroll 1
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(full(stage), 1);
      mbarrier_init(empty(stage), 1);
    }
    mbarrier_fence_init();
  }

  // Before init() is called again.
  __device__ void retire() const {
#pragma unroll 1
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_retire(full(stage));
      mbarrier_retire(empty(stage));
    }
  }
};

// Rows from `valid` on may hold anything, and 0 · NaN is NaN.
__device__ __forceinline__ void clear_values(uint32_t values, int valid) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    for (int at = valid * 128 + threadIdx.x % 32 * 16; at < kHalfBytes; at += 512) {
      clear_shared_16(values + half * kHalfBytes + at);
    }
  }
}

class Producer {
 public:
  __device__ Producer(const DecodeArguments& p, const StreamShape& shape, const Ring& ring,
                      const CacheMaps& maps)
      : p_(p), shape_(shape), ring_(ring), maps_(maps), lane_(threadIdx.x % 32),
        boxes_(kTile / shape.tail_rows) {}

  // Tiles of a chunk, whose rows one load of all lanes finds.
  __device__ __forceinline__ int chunk() const { return 32 / boxes_; }

  // Lane l: the cache row at which box l (of tail_rows) of the chunk that starts with tile `first`
  // begins.
  __device__ __forceinline__ int load_rows(const Walk& walk, int first) const {
    const int key = walk.begin() + first * kTile + lane_ * shape_.tail_rows;
    if (key >= walk.end()) return 0;
    const int page_keys = p_.tiles_per_page * 16;
    const int* entry =
        p_.block_tables + int64_t(walk.sequence) * p_.table_width + key / page_keys;
    int page = load_racing(entry);
    if (page < 0 || page >= p_.num_pages) page = 0;
    return (page * p_.nkv + walk.kv_head) * page_keys + key % page_keys;
  }

  // Copies tile `local` of the chunk; `keys` keys of the split remain from it on.
  __device__ __forceinline__ void copy(int local, int rows, int keys) {
    const bool is_tail = keys <= kTile - shape_.tail_rows;
    const int box_rows = is_tail ? shape_.tail_rows : shape_.box_rows;
    const int wanted = is_tail ? (keys + box_rows - 1) / box_rows : kTile / box_rows;
    // Lane l: half l % 2 of keys or values (l / 2 % 2) of box l / 4.
    const int box = lane_ / 4;
    const int from = local * boxes_ + box * (box_rows / shape_.tail_rows);
    const int row = __shfl_sync(0xffffffffu, rows, from % 32);
    const int stage = number_ % kStages;
    mbarrier_wait(ring_.empty(stage), number_ / kStages % 2 ^ 1);
    ++number_;
    const uint32_t full = ring_.full(stage);
    if (lane_ == 0) mbarrier_arrive_expect(full, wanted * box_rows * 4 * 128);
    __syncwarp();
    if (box < wanted) {
      const int half = lane_ % 2;
      const bool is_value = lane_ / 2 % 2 != 0;
      const uint32_t to = ring_.keys(stage) + is_value * kPartBytes + half * kHalfBytes +
                          box * box_rows * 128;
      const CUtensorMap& map = is_tail ? (is_value ? maps_.tail_values : maps_.tail_keys)
                                       : (is_value ? maps_.values : maps_.keys);
      tma_load(to, map, full, half * 64, row);
    }
  }

  // What was copied in vain arrives, and the ring is as new.
  __device__ __forceinline__ void undo(int tiles) {
    if (tiles == 0) return;
    for (int stage = 0; stage < tiles; ++stage) mbarrier_wait(ring_.full(stage), 0);
    __syncwarp();
    if (lane_ == 0) {
      ring_.retire();
      ring_.init();
    }
    __syncwarp();
    number_ = 0;
  }

  // All tiles from tile `first` of the walk's split on.
  __device__ __forceinline__ void run(Walk& walk, int rows, int first) {
    int start = 0;  // of the chunk
#pragma unroll 1
    while (walk.sequence >= 0) {
      const int tiles = walk.tiles();
      const int keys = walk.end() - walk.begin();
      const int stop = min(tiles, start + chunk());
      // The next chunk's rows are asked for before this one's copies wait for room.
      int next_start = start + chunk();
      if (next_start >= tiles) {
        next_start = 0;
        walk.next();
      }
      const int next_rows = walk.sequence >= 0 ? load_rows(walk, next_start) : 0;
#pragma unroll 1
      for (int tile = max(start, first); tile < stop; ++tile) {
        copy(tile - start, rows, keys - tile * kTile);
      }
      first = 0;
      start = next_start;
      rows = next_rows;
    }
  }

 private:
  const DecodeArguments& p_;
  const StreamShape& shape_;
  const Ring& ring_;
  const CacheMaps& maps_;
  const int lane_;
  const int boxes_;  // of a tile, by tail_rows
  int number_ = 0;  // of the next tile
};

#endif  // ERNIE_HOPPER

}  // namespace ernie::decode_stream
