// What a warp of the general decode attention reads: its tiles of keys and values, queries, the
// newest key.
#pragma once

#include "ernie/decode_items.cuh"

namespace ernie::decode_general {

// Cosines and sines of the pairs in a lane's query fragments: column pairs (2 t, 2 t + 1) of each
// eight, t = lane % 4. Asked for together with the queries, so that one latency covers both.
template <int kHead, Turn kTurn>
struct QueryTurn {
  static constexpr int kPairs = kTurn == Turn::kDone ? 1 : kHead / 8;  // of a lane
  float cosines[kPairs];
  float sines[kPairs];

  __device__ __forceinline__ void load(const float* c, const float* s) {
    if constexpr (kTurn != Turn::kDone) {
      const int t = threadIdx.x % 4;
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        const int pair = kTurn == Turn::kNeighbours ? j * 4 + t : j / 2 * 8 + 2 * t + j % 2;
        cosines[j] = c[pair];
        sines[j] = s[pair];
      }
    }
  }

  __device__ __forceinline__ void apply(QueryFragments<kHead, 1>& q) const {
    if constexpr (kTurn == Turn::kNeighbours) {
#pragma unroll
      for (int step = 0; step < HeadLayout<kHead>::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = step * 2 + i / 2;
          float a = low_float(q.a[0][step][i]), b = high_float(q.a[0][step][i]);
          turn_pair(a, b, cosines[j], sines[j]);
          q.a[0][step][i] = pack_2(a, b);
        }
      }
    } else if constexpr (kTurn == Turn::kHalves) {
      static_assert(kHead % 32 == 0, "halves must be whole steps");
      constexpr int kSteps = HeadLayout<kHead>::kSteps;
#pragma unroll
      for (int step = 0; step < kSteps / 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = step * 4 + i / 2 * 2;
          uint32_t& first = q.a[0][step][i];
          uint32_t& second = q.a[0][step + kSteps / 2][i];
          float a0 = low_float(first), a1 = high_float(first);
          float b0 = low_float(second), b1 = high_float(second);
          turn_pair(a0, b0, cosines[j], sines[j]);
          turn_pair(a1, b1, cosines[j + 1], sines[j + 1]);
          first = pack_2(a0, a1);
          second = pack_2(b0, b1);
        }
      }
    }
  }
};

// One warp's share of an item: tiles warp, warp + 4, … of the split, streamed through its ring.
template <int kHead>
class TileStream {
 public:
  using Shared = DecodeShared<kHead>;

  __device__ TileStream(const DecodeArguments& p, uint32_t ring)
      : p_(p), ring_(ring), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32) {}

  // Lane l: the page of the item's tile that is l-th of this warp, 0 for none.
  template <bool kRacing>
  __device__ __forceinline__ int load_page(const DecodeItem& item) const {
    return load_page_of<kRacing>(item, item.begin / kTile + warp_ + kWarps * lane_);
  }

  // Starts the copies of the first tiles; `page` comes from load_page(item).
  __device__ __forceinline__ void begin(const DecodeItem& item, int page) {
    item_ = item;
    first_ = item.begin / kTile + warp_;
    tiles_ = max(0, ((item.end - item.begin + kTile - 1) / kTile - warp_ + kWarps - 1) / kWarps);
    places_ = tile_place(p_, item, first_ + kWarps * lane_, page);
#pragma unroll 1
    for (int local = 0; local < Shared::kStages; ++local) fetch(local);
  }

  __device__ __forceinline__ int tiles() const { return tiles_; }
  __device__ __forceinline__ int first_key(int local) const {
    return (first_ + kWarps * local) * kTile;
  }
  __device__ __forceinline__ int valid(int local) const { return item_.end - first_key(local); }
  // Shared address of a tile's keys; its values follow.
  __device__ __forceinline__ uint32_t shared(int local) const {
    return ring_ + local % Shared::kStages * (2 * Shared::kTileBytes);
  }

  // Waits until `kTiles` more tiles than were replaced are here.
  template <int kTiles>
  __device__ __forceinline__ void wait() const {
    cp_async_wait<Shared::kStages - kTiles>();
    __syncwarp();
  }

  // Starts the copies that take the place of tile `local`, which the whole warp has read.
  __device__ __forceinline__ void replace(int local) {
    __syncwarp();
    const int next = local + Shared::kStages;
    if (next % 32 == 0) {
      const int tile = first_ + kWarps * (next + lane_);
      places_ = tile_place(p_, item_, tile, load_page_of<false>(item_, tile));
    }
    fetch(next);
  }

 private:
  template <bool kRacing>
  __device__ __forceinline__ int load_page_of(const DecodeItem& item, int tile) const {
    if (tile * kTile >= item.end) return 0;
    const int* entry =
        p_.block_tables + int64_t(item.sequence) * p_.table_width + tile / p_.tiles_per_page;
    const int page = kRacing ? load_racing(entry) : *entry;
    return kRacing && (page < 0 || page >= p_.num_pages) ? 0 : page;
  }

  __device__ __forceinline__ void fetch(int local) const {
    if (local < tiles_) {
      const int64_t at =
          int64_t(__shfl_sync(0xffffffffu, places_, local % 32)) * (kTile * kHead);
      const uint32_t to = shared(local);
      copy_rows<kHead, kTile, 32>(to, lane_, valid(local),
                                  [&](int r) { return p_.k_cache + at + r * kHead; });
      copy_rows<kHead, kTile, 32>(to + Shared::kTileBytes, lane_, valid(local),
                                  [&](int r) { return p_.v_cache + at + r * kHead; });
    }
    cp_async_commit();
  }

  const DecodeArguments& p_;
  const uint32_t ring_;
  const int warp_;
  const int lane_;
  DecodeItem item_;
  int first_;   // tile
  int tiles_;   // of this warp
  int places_;  // lane l: of the tile that is l-th of 32
};

// What the step's earlier kernels made for an item whose stream has begun.
template <int kHead, Turn kTurn>
struct ItemInputs {
  QueryFragments<kHead, 1> q;
  QueryTurn<kHead, kTurn> query_turn;
  NewestRow<kHead, kTurn> newest_row;
  bool owns_newest;

  __device__ __forceinline__ void load(const DecodeArguments& p, const DecodeItem& item,
                                       const TileStream<kHead>& stream) {
    const int tiles = stream.tiles();
    const bf16* row = p.q + int64_t(item.sequence) * p.q_stride;
    const bf16* queries = row + item.kv_head * p.ratio * kHead;
    q.load([&](int head) { return head < p.ratio ? queries + head * kHead : nullptr; });
    // The newest key is the last one; it lies in the last tile of a warp of the last split.
    owns_newest = kTurn != Turn::kDone && item.split == item.splits - 1 && tiles > 0 &&
                  stream.valid(tiles - 1) <= kTile;
    if constexpr (kTurn != Turn::kDone) {
      const int64_t angles = int64_t(item.sequence) * (kHead / 2);
      query_turn.load(p.cosines + angles, p.sines + angles);
      if (owns_newest) {
        const bf16* key = row + (p.nkv * p.ratio + item.kv_head) * kHead;
        newest_row.load(key, key + p.nkv * kHead, p.cosines + angles, p.sines + angles);
      }
    }
  }
};

}  // namespace ernie::decode_general
