// Decode attention for every head size, ratio and device: split-KV flash decoding.
//
// A context is cut into splits by its own length alone, so a row's result does not depend on its
// batch. An item is one split of one (sequence, KV head); the query heads of the KV head are the 16
// rows of the tensor-core tile. A fixed number of blocks walks the list of items, which every warp
// derives from context_lens. The four warps of a block stream 16-key tiles through rings of their
// own and never wait for one another until the item's end, where the block joins their sums. The
// block that finishes the last split of a (sequence, KV head) joins the splits.
//
// rope_decode_attention does the work of rope_kv_write on the way: each warp turns the queries in
// its registers; the one that owns the newest key's tile turns that key, puts it and its value into
// the tile, and writes both to the cache, where nobody else reads them before the next launch. The
// other keys are older than the step, so the first item's are fetched ahead of pdl_wait().
#pragma once

#include "ernie/decode_tiles.cuh"
#include "ernie/pdl.cuh"

namespace ernie::decode_general {

// Attends to a stream that has begun.
template <int kHead, Turn kTurn>
__device__ __forceinline__ void attend(const DecodeArguments& p, const DecodeItem& item,
                                       TileStream<kHead>& stream, ItemInputs<kHead, kTurn>& inputs,
                                       SoftmaxState<kHead, 1>& state) {
  using Shared = DecodeShared<kHead>;
  const int lane = threadIdx.x % 32;
  const int tiles = stream.tiles();
  QueryFragments<kHead, 1>& q = inputs.q;
  NewestRow<kHead, kTurn>& newest_row = inputs.newest_row;
  const bool owns_newest = inputs.owns_newest;
  if constexpr (kTurn != Turn::kDone) {
    inputs.query_turn.apply(q);
    if (owns_newest) newest_row.turn();
  }
  state.clear();

  const auto place_newest = [&] {
    const int valid = stream.valid(tiles - 1);
    const uint32_t to = stream.shared(tiles - 1) + (valid - 1) * HeadLayout<kHead>::kRowBytes;
    newest_row.store_shared(to, to + Shared::kTileBytes, [](int column) { return column * 2; });
    const int tile = (item.end - 1) / kTile;
    const int page =
        p.block_tables[int64_t(item.sequence) * p.table_width + tile / p.tiles_per_page];
    const int64_t at = int64_t(tile_place(p, item, tile, page)) * kTile + valid - 1;
    newest_row.store(p.k_cache + at * kHead, p.v_cache + at * kHead);
    __syncwarp();
  };
  // The next tile's scores are independent of this tile's softmax, so their latencies overlap;
  // after the last tile they are made from whatever lies there, and dropped.
  float scores[1][2][4], next[1][2][4];
  stream.template wait<1>();
  if (kTurn != Turn::kDone && owns_newest && tiles == 1) place_newest();
  multiply_keys<kHead, 1, 2>(q, stream.shared(0), scores);
#pragma unroll 1
  for (int local = 0; local < tiles; ++local) {
    stream.template wait<2>();
    if (kTurn != Turn::kDone && owns_newest && local == tiles - 2) place_newest();
    multiply_keys<kHead, 1, 2>(q, stream.shared(local + 1), next);
    const int visible = stream.valid(local) - lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (n * 8 + i % 2 >= visible) scores[0][n][i] = -INFINITY;
      }
    }
    state.update(scores, p.scale);
    multiply_values<kHead, 1, 2>(scores, stream.shared(local) + Shared::kTileBytes, state);
    stream.replace(local);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[0][n][i] = next[0][n][i];
    }
  }
  cp_async_wait<0>();
  __syncwarp();  // a warp without tiles has read, in vain, what the next item's copies overwrite
  state.finish();
}

// Leaves the warps' sums in shared memory, [warp][16], and of their outputs the columns of `round`:
// f32 [warp][ratio][width].
template <int kHead>
__device__ __forceinline__ void store_state(const SoftmaxState<kHead, 1>& state, int ratio,
                                            float scale, int round, int width, float* out,
                                            float2* sums) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int first = round * width;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    if (row >= ratio) continue;
    float* to = out + (warp * ratio + row) * width + lane % 4 * 2 - first;
#pragma unroll
    for (int n = 0; n < kHead / 8; ++n) {
      if (n * 8 < first || n * 8 >= first + width) continue;
      *reinterpret_cast<float2*>(to + n * 8) =
          make_float2(state.out[0][n][2 * half], state.out[0][n][2 * half + 1]);
    }
    if (lane % 4 == 0 && round == 0) {
      sums[warp * kMaxRatio + row] =
          make_float2(state.maximum[0][half] * scale, state.sum[0][half]);
    }
  }
}

// Joins the warps' sums; writes the rows, or this split's part and, as the last one, the rows.
template <int kHead>
__device__ __forceinline__ void finish_item(const DecodeArguments& p, const DecodeItem& item,
                                            const SoftmaxState<kHead, 1>& state, char* shared) {
  float* parts = reinterpret_cast<float*>(shared + DecodeShared<kHead>::kFixed);
  float2* sums = reinterpret_cast<float2*>(shared + DecodeShared<kHead>::kRings);
  const int stride = p.ratio * kHead;
  const int64_t head = int64_t(item.sequence) * p.nkv + item.kv_head;
  const int64_t slot = head * p.split_slots + item.split;
  const int width = kHead / p.rounds;
#pragma unroll 1
  for (int round = 0; round < p.rounds; ++round) {
    if (round > 0) __syncthreads();  // the columns before are read
    store_state(state, p.ratio, p.scale, round, width, parts, sums);
    __syncthreads();
    for (int at = threadIdx.x * 4; at < p.ratio * width; at += kThreads * 4) {
      const int row = at / width;
      const int to = row * kHead + round * width + at % width;
      float top = -INFINITY;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, sums[w * kMaxRatio + row].x);
      float4 out = make_float4(0.f, 0.f, 0.f, 0.f);
      float total = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float2 sum = sums[w * kMaxRatio + row];
        const float weight = weight_of(sum.x, top);
        total = fmaf(weight, sum.y, total);
        add_scaled(out, *reinterpret_cast<const float4*>(parts + w * p.ratio * width + at), weight);
      }
      if (item.splits == 1) {
        store_row(p.out + head * stride + to, out, total > 0.f ? 1.f / total : 0.f);
      } else {
        *reinterpret_cast<float4*>(p.partial_out + slot * stride + to) = out;
        if (to % kHead == 0) p.partial_sum[slot * p.ratio + row] = make_float2(top, total);
      }
    }
  }
  if (item.splits == 1) return;

  __syncthreads();  // every thread's part is written; the sums are read
  __shared__ int last;
  if (threadIdx.x == 0) {
    last = arrive(p.arrivals + head, 1) == item.splits - 1;
    if (last) p.arrivals[head] = 0;
  }
  __syncthreads();
  if (last) {
    join_splits<kHead, kWarps>(p, head, item.splits, parts, [] { __syncthreads(); });
  }
}

// The block's work. `shared`, at a multiple of 16 bytes, has DecodeShared<kHead>::bytes(…).
template <int kHead, Turn kTurn>
__device__ __forceinline__ void run_block(const DecodeArguments& p, char* shared) {
  using Shared = DecodeShared<kHead>;
  pdl_trigger();
  clear_padding<kHead>(shared, kWarps * Shared::kStages * 2 * kTile);
  if (HeadLayout<kHead>::kHasPadding) __syncthreads();
  TileStream<kHead> stream(p, shared_address(shared) + threadIdx.x / 32 * Shared::kRingBytes);
  DecodeItem early{-1, 0, 0, 0, 0, 0};
  int early_page = 0;
  if constexpr (kTurn == Turn::kDone) {
    prefetch_item<kHead>(p);
  } else {
    ItemFinder finder;
    early = find_item<true>(p, finder, blockIdx.x);
    if (early.sequence >= 0) {
      early_page = stream.template load_page<true>(early);
      stream.begin(early, early_page);
      hint_angles<kHead>(p, early.sequence);
    }
  }
  pdl_wait();

  ItemFinder finder;
  int index = blockIdx.x;
  ItemInputs<kHead, kTurn> inputs;
  int page = 0;
  if (early.sequence >= 0) {  // all of it is under way before the first of it is looked at
    inputs.load(p, early, stream);
    page = stream.template load_page<false>(early);
  }
  DecodeItem item = find_item<false>(p, finder, index);
  if (!(item == early && __all_sync(0xffffffffu, page == early_page))) {
    cp_async_wait<0>();  // what was begun too early was in vain
    __syncwarp();
    if (item.sequence >= 0) {
      stream.begin(item, stream.template load_page<false>(item));
      inputs.load(p, item, stream);
    }
  }
#pragma unroll 1
  while (item.sequence >= 0) {
    // The next item is found while this one's tiles arrive, and begins while this one is finished.
    index += gridDim.x;
    const DecodeItem next = find_item<false>(p, finder, index);
    const int page = next.sequence >= 0 ? stream.template load_page<false>(next) : 0;
    SoftmaxState<kHead, 1> state;
    attend<kHead, kTurn>(p, item, stream, inputs, state);
    if (next.sequence >= 0) {
      stream.begin(next, page);
      inputs.load(p, next, stream);
    }
    finish_item<kHead>(p, item, state, shared);
    __syncthreads();  // the sums' place is free
    item = next;
  }
}

}  // namespace ernie::decode_general
