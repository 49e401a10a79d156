// The list of items of the general decode attention: which split of which (sequence, KV head) a block
// does next.
#pragma once

#include "ernie/attention.cuh"
#include "ernie/decode_parts.cuh"

namespace ernie::decode_general {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kTile = 16;           // keys of one step of one warp; a page holds a multiple
constexpr int kMaxRatio = 16;       // query heads to one KV head
constexpr int kSplitUnit = kWarps * kTile;
constexpr int kHintTiles = 16;      // asked for early: 264 blocks of 16 tiles are 34 MB, an L2 half

__host__ __device__ inline int keys_per_split(int context, int most_splits) {
  if (context <= kDecodeWhole) return kDecodeWhole;
  const int even = (context + most_splits - 1) / most_splits;
  const int rounded = (even + kSplitUnit - 1) / kSplitUnit * kSplitUnit;
  return rounded > kDecodeLeast ? rounded : kDecodeLeast;
}

// At least one, so that an empty row has somebody to write its zeros.
__host__ __device__ inline int splits_of(int context, int most_splits) {
  const int keys = keys_per_split(context, most_splits);
  return context > keys ? (context + keys - 1) / keys : 1;
}

template <int kHead>
struct DecodeShared {
  static constexpr int kTileBytes = kTile * HeadLayout<kHead>::kRowBytes;
  static constexpr int kStages = kHead > 96 ? 3 : (kHead > 64 ? 4 : 5);
  static constexpr int kRingBytes = kStages * 2 * kTileBytes;  // keys and values of one warp
  static constexpr int kSumBytes = kWarps * kMaxRatio * 8;
  static constexpr int kRings = kWarps * kRingBytes;
  static constexpr int kFixed = kRings + kSumBytes;

  // The warps' outputs lie behind, so that the next item can begin in the rings meanwhile.
  static int bytes(int ratio, int rounds) { return kFixed + kWarps * ratio * kHead * 4 / rounds; }

  // In how many rounds, of whole blocks of 8 columns, outputs are joined: as few as `limit` bytes do,
  // 4 at most.
  static int rounds(int ratio, int limit) {
    int rounds = 1;
    while (rounds < 4 && kHead % (16 * rounds) == 0 && bytes(ratio, rounds) > limit) rounds *= 2;
    return rounds;
  }
};

struct DecodeItem {
  int sequence;
  int kv_head;
  int split;
  int splits;
  int begin;  // keys
  int end;

  __device__ bool operator==(const DecodeItem& other) const {
    return sequence == other.sequence && kv_head == other.kv_head && begin == other.begin &&
           end == other.end && splits == other.splits;
  }
};

template <bool kRacing>
__device__ __forceinline__ DecodeItem find_item(const DecodeArguments& p, ItemFinder& finder,
                                                int index) {
  const ItemPlace place = finder.find(index, p.sequences, [&](int sequence) {
    return p.nkv * splits_of(context_of<kRacing>(p, sequence), p.most_splits);
  });
  DecodeItem item{place.segment, 0, 0, 0, 0, 0};
  if (place.segment < 0) return item;
  item.splits = place.count / p.nkv;
  item.kv_head = place.item / item.splits;
  item.split = place.item - item.kv_head * item.splits;
  const int context = context_of<kRacing>(p, place.segment);
  const int keys = keys_per_split(context, p.most_splits);
  item.begin = item.split * keys;
  item.end = min(context, item.begin + keys);
  return item;
}

// Where tile `tile` of the item's sequence lies in the cache, counted in tiles.
__device__ __forceinline__ int tile_place(const DecodeArguments& p, const DecodeItem& item,
                                          int tile, int page) {
  return (page * p.nkv + item.kv_head) * p.tiles_per_page + tile % p.tiles_per_page;
}

// Asks for the first item's keys and values while the kernel before this one still runs.
template <int kHead>
__device__ __forceinline__ void prefetch_item(const DecodeArguments& p) {
  if (threadIdx.x >= 32) return;
  ItemFinder finder;
  const DecodeItem item = find_item<true>(p, finder, blockIdx.x);
  if (item.sequence < 0) return;
  const int run = p.tiles_per_page % 4 == 0 ? 4 : 1;  // tiles side by side in one page
  const int tile = item.begin / kTile + static_cast<int>(threadIdx.x) * run;
  if (threadIdx.x * run >= kHintTiles || tile * kTile >= item.end) return;
  const int page = load_racing(p.block_tables + int64_t(item.sequence) * p.table_width +
                               tile / p.tiles_per_page);
  if (page < 0 || page >= p.num_pages) return;
  const int64_t at = int64_t(tile_place(p, item, tile, page)) * (kTile * kHead);
  hint_bytes(p.k_cache + at, run * kTile * kHead * 2);
  hint_bytes(p.v_cache + at, run * kTile * kHead * 2);
}

}  // namespace ernie::decode_general
