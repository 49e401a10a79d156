// The list of items of few sequences' decode attention, and their tiles: which split of which
// (sequence, KV head) a cluster does next.
#pragma once

#include "ernie/decode_heads.cuh"
#include "ernie/split_walk.cuh"

#if defined(ERNIE_HOPPER)

namespace ernie::decode_cluster {

using decode_stream::kHead;
using decode_stream::swizzled;

constexpr int kKeys = 16;  // of a tile; a page holds a multiple
constexpr int kPartBytes = kKeys * kHead * 2;  // of its keys, of its values

struct Item {
  int sequence;  // -1: there are no more
  int kv_head;
  int split;
  int splits;
  int begin;  // keys
  int end;

  __device__ int tiles() const { return (end - begin + kKeys - 1) / kKeys; }
};

// Lane s: the length of sequence s.
__device__ __forceinline__ int load_context(const DecodeArguments& p) {
  const int lane = threadIdx.x % 32;
  return lane < p.sequences ? context_of<true>(p, lane) : 0;
}

// Item `index` of the list; `context` is load_context()'s. All lanes call it and get the same.
__device__ __forceinline__ Item find(const DecodeArguments& p, const SplitRule& rule, int context,
                                     int index) {
  const int lane = threadIdx.x % 32;
  const int mine = lane < p.sequences ? p.nkv * rule.splits(context) : 0;
  int through = mine;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_up_sync(0xffffffffu, through, step);
    if (lane >= step) through += below;
  }
  const unsigned above = __ballot_sync(0xffffffffu, through > index);
  if (above == 0) return Item{-1, 0, 0, 1, 0, 0};
  Item item;
  item.sequence = __ffs(above) - 1;
  const int length = __shfl_sync(0xffffffffu, context, item.sequence);
  const int local = index - __shfl_sync(0xffffffffu, through - mine, item.sequence);
  item.splits = rule.splits(length);
  item.split = local / p.nkv;
  item.kv_head = local - item.split * p.nkv;
  const int log_keys = rule.log_keys(length);
  item.begin = item.split << log_keys;
  item.end = min(length, item.begin + (1 << log_keys));
  return item;
}

// The page of a tile of an item; 0 for none.
__device__ __forceinline__ int load_page(const DecodeArguments& p, const Item& item, int tile) {
  if (item.sequence < 0 || tile >= item.tiles()) return 0;
  const int at = (item.begin / kKeys + tile) / p.tiles_per_page;
  const int page = load_racing(p.block_tables + int64_t(item.sequence) * p.table_width + at);
  return page < 0 || page >= p.num_pages ? 0 : page;
}

// Where a tile begins in the cache, in values.
__device__ __forceinline__ int64_t tile_place(const DecodeArguments& p, const Item& item, int tile,
                                              int page) {
  const int in_page = (item.begin / kKeys + tile) % p.tiles_per_page;
  return int64_t((page * p.nkv + item.kv_head) * p.tiles_per_page + in_page) * (kKeys * kHead);
}

// Asks for a tile; keys and values past the split's end become zeros.
__device__ __forceinline__ void fetch(const DecodeArguments& p, const Item& item, int tile, int page,
                                      uint32_t keys) {
  if (item.sequence < 0 || tile >= item.tiles()) return;
  const int lane = threadIdx.x % 32;
  const int valid = item.end - item.begin - tile * kKeys;
  const int64_t place = tile_place(p, item, tile, page);
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    const int row = i * 2 + lane / 16;
    const int column = lane % 16 * 8;
    const uint32_t to = keys + swizzled<kKeys>(row, column);
    const int64_t from = place + row * kHead + column;
    cp_async_16(to, p.k_cache + from, row < valid);
    cp_async_16(to + kPartBytes, p.v_cache + from, row < valid);
  }
  cp_async_commit();
}

}  // namespace ernie::decode_cluster

#endif  // ERNIE_HOPPER
