// Decode attention of few sequences on Hopper, head size 128: a block's work.
//
// An item is one split of one (sequence, KV head), as in decode_attention_general.cu, but a cluster
// of eight blocks shares it: tile i of 16 keys belongs to warp i / 8 of block i % 8, so that up to 512
// keys are one tile to a warp. A block joins its warps' sums and sends each block of the cluster its
// 16 columns; every block joins what it is sent and writes the columns that are its own. It counts
// its columns of a split in by itself, and joins those of all splits if it comes last.
#pragma once

#include "ernie/decode_cluster.cuh"
#include "ernie/pdl.cuh"

namespace ernie::decode_cluster {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kLogWhole = 10;  // keys up to which joining splits costs more than it saves
constexpr int kLogLeast = 9;   // keys of a split: a tile for each warp of a cluster

// How contexts are cut if none may have more than `most_splits` splits.
inline SplitRule split_rule(int most_splits) {
  SplitRule rule{0, kLogWhole, kLogLeast};
  while (2 << rule.log_most <= most_splits) ++rule.log_most;
  return rule;
}

}  // namespace ernie::decode_cluster

#if defined(ERNIE_HOPPER)

namespace ernie::decode_cluster {

using namespace decode_stream;

constexpr int kTeam = kDecodeCluster * kWarps;
constexpr int kColumns = kHead / kDecodeCluster;  // that a block writes
constexpr int kPitch = kHead + 4;  // floats; rows of a warp's sums lie in different banks
constexpr int kColumnPitch = kColumns + 4;

struct Shared {
  // Of each warp: keys, values; then its sums, [ratio][kPitch].
  char tiles[kWarps][2 * kPartBytes];
  float2 warp_sums[kWarps][kMostHeads];
  // What the blocks of the cluster have sent.
  float parts[kDecodeCluster][kMostHeads][kColumnPitch];
  float2 part_sums[kDecodeCluster][kMostHeads];
  uint64_t sent;  // barrier: an item's messages are here
  int is_last;
};
static_assert(kMostHeads * kPitch * 4 <= 2 * kPartBytes, "a warp's sums take its tile's place");

// What the kernels before made for an item.
template <Turn kTurn>
struct Inputs {
  Queries<kTurn> q;
  Angles<kTurn> angles;
  NewestRow<kHead, kTurn> newest;
  int page;          // of this warp's tile
  bool owns_newest;  // the last key of the last split is in this warp's last tile

  __device__ __forceinline__ void load(const DecodeArguments& p, const Item& item, int first) {
    const int tiles = item.tiles();
    owns_newest = kTurn != Turn::kDone && first < tiles && item.split == item.splits - 1 &&
                  (tiles - 1 - first) % kTeam == 0;
    if (item.sequence < 0 || first >= tiles) return;
    const bf16* row = p.q + int64_t(item.sequence) * p.q_stride;
    const int head = threadIdx.x % 32 / 4;
    q.load(head < p.ratio ? row + (item.kv_head * p.ratio + head) * kHead : nullptr);
    if constexpr (kTurn != Turn::kDone) {
      const int64_t at = int64_t(item.sequence) * (kHead / 2);
      angles.load(p.cosines + at, p.sines + at);
      if (owns_newest) {
        const bf16* key = row + (p.nkv * p.ratio + item.kv_head) * kHead;
        newest.load(key, key + p.nkv * kHead, p.cosines + at, p.sines + at);
      }
    }
  }

  __device__ __forceinline__ void turn() {
    if constexpr (kTurn != Turn::kDone) {
      q.turn(angles);
      if (owns_newest) newest.turn();
    }
  }
};

// One warp's tiles of an item, of which the first is on its way.
template <Turn kTurn>
__device__ __forceinline__ void attend(const DecodeArguments& p, const Item& item, int first,
                                       Inputs<kTurn>& inputs, uint32_t keys, HeadSums& sums) {
  const int tiles = item.tiles();
  inputs.turn();
#pragma unroll 1
  for (int tile = first;;) {
    const int following = tile + kTeam;
    const int following_page = load_page(p, item, following);
    cp_async_wait<0>();
    __syncwarp();
    const int valid = item.end - item.begin - tile * kKeys;
    if constexpr (kTurn != Turn::kDone) {
      if (inputs.owns_newest && tile == tiles - 1) {
        inputs.newest.store_shared(keys, keys + kPartBytes,
                                   [&](int column) { return swizzled<kKeys>(valid - 1, column); });
        const int64_t to = tile_place(p, item, tile, inputs.page) + (valid - 1) * kHead;
        inputs.newest.store(p.k_cache + to, p.v_cache + to);
        __syncwarp();
      }
    }
    sums.add<kKeys>(inputs.q.b, keys, keys + kPartBytes, valid, p.scale);
    __syncwarp();
    if (following >= tiles) break;
    fetch(p, item, following, following_page, keys);
    tile = following;
    inputs.page = following_page;
  }
  sums.finish();
}

// A warp's sums, to where its tile was.
__device__ __forceinline__ void store_sums(const HeadSums& sums, int ratio, float scale, float* to,
                                           float2* warp_sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane % 4 * 2 + h;
    if (row >= ratio) continue;
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      to[row * kPitch + m * 16 + lane / 4] = sums.out[m][h];
      to[row * kPitch + m * 16 + lane / 4 + 8] = sums.out[m][2 + h];
    }
    if (lane < 4) warp_sums[row] = make_float2(sums.top[h] * scale, sums.sum[h]);
  }
}

// Joins the sums of the block's first `active` warps and sends every block of the cluster its columns.
__device__ __forceinline__ void send(Shared& shared, int ratio, int active, int rank) {
  const int lane = threadIdx.x % 32;
  const uint32_t block = lane / 4;  // that writes these four columns
  const uint32_t sent = cluster_address(shared_address(&shared.sent), block);
#pragma unroll 1
  for (int row = threadIdx.x / 32; row < ratio; row += kWarps) {
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < active) top = fmaxf(top, shared.warp_sums[w][row].x);
    }
    float4 out = make_float4(0.f, 0.f, 0.f, 0.f);
    float total = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w >= active) continue;
      const float2 sum = shared.warp_sums[w][row];
      const float weight = weight_of(sum.x, top);
      const float* sums = reinterpret_cast<const float*>(shared.tiles[w]) + row * kPitch;
      total = fmaf(weight, sum.y, total);
      add_scaled(out, *reinterpret_cast<const float4*>(sums + lane * 4), weight);
    }
    send_cluster(cluster_address(shared_address(&shared.parts[rank][row][lane % 4 * 4]), block),
                 sent, out);
    if (lane % 4 == 0) {
      send_cluster(cluster_address(shared_address(&shared.part_sums[rank][row]), block), sent,
                   make_float2(top, total));
    }
  }
}

// Joins `count` sums of one column of a row; sum_of(i) gives (maximum, sum), out_of(i) the output.
template <class SumOf, class OutOf>
__device__ __forceinline__ void join(int count, const SumOf& sum_of, const OutOf& out_of,
                                     float2& sum, float& out) {
  sum = make_float2(-INFINITY, 0.f);
  out = 0.f;
#pragma unroll 8
  for (int i = 0; i < count; ++i) sum.x = fmaxf(sum.x, sum_of(i).x);
#pragma unroll 8
  for (int i = 0; i < count; ++i) {
    const float2 part = sum_of(i);
    const float weight = weight_of(part.x, sum.x);
    sum.y = fmaf(weight, part.y, sum.y);
    out = fmaf(weight, out_of(i), out);
  }
}

// Joins what the cluster's blocks have sent; writes this block's columns of the rows, or of the
// split's part and, as the last one, of the rows.
__device__ __forceinline__ void write(const DecodeArguments& p, const Item& item, int rank,
                                      Shared& shared) {
  const int row = threadIdx.x / kColumns;
  const int column = threadIdx.x % kColumns;
  const bool is_mine = row < p.ratio;
  const int64_t head = int64_t(item.sequence) * p.nkv + item.kv_head;
  const auto store = [&](float2 sum, float out) {
    p.out[(head * p.ratio + row) * kHead + rank * kColumns + column] =
        __float2bfloat16_rn(sum.y > 0.f ? out / sum.y : 0.f);
  };
  // Of split s: this block's places among the parts.
  const auto part_out = [&](int s) {
    return p.partial_out + ((head * p.split_slots + s) * p.ratio + row) * kHead + rank * kColumns +
           column;
  };
  const auto part_sum = [&](int s) {
    return p.partial_sum + ((head * p.split_slots + s) * kDecodeCluster + rank) * p.ratio + row;
  };
  float2 sum;
  float out;
  if (is_mine) {
    join(
        kDecodeCluster, [&](int r) { return shared.part_sums[r][row]; },
        [&](int r) { return shared.parts[r][row][column]; }, sum, out);
    if (item.splits == 1) {
      store(sum, out);
    } else {
      *part_out(item.split) = out;
      if (column == 0) *part_sum(item.split) = sum;
    }
  }
  if (item.splits == 1) return;
  __syncthreads();
  if (threadIdx.x == 0) {
    int* counter = p.arrivals + head * kDecodeCluster + rank;
    shared.is_last = arrive(counter, 1) == item.splits - 1;
    if (shared.is_last) *counter = 0;
  }
  __syncthreads();
  if (!shared.is_last || !is_mine) return;
  join(
      item.splits, [&](int s) { return __ldcg(part_sum(s)); },
      [&](int s) { return __ldcg(part_out(s)); }, sum, out);
  store(sum, out);
}

// The block's work.
template <Turn kTurn>
__device__ __forceinline__ void run_block(const DecodeArguments& p, const SplitRule& rule,
                                          Shared& shared) {
  pdl_trigger();
  const int rank = static_cast<int>(cluster_rank());
  const int warp = threadIdx.x / 32;
  const int first = warp * kDecodeCluster + rank;  // this warp's first tile of any item
  const uint32_t keys = shared_address(shared.tiles[warp]);
  int index = blockIdx.x / kDecodeCluster;
  const int clusters = gridDim.x / kDecodeCluster;

  // All that the first item needs is asked for before it is certain which one that is.
  const uint32_t sent = shared_address(&shared.sent);
  if (threadIdx.x == 0) {
    mbarrier_init(sent, 1);
    mbarrier_fence_init();
  }
  uint32_t parity = 0;
  int context = load_context(p);
  Item item = find(p, rule, context, index);
  Inputs<kTurn> inputs;
  inputs.page = load_page(p, item, first);
  bool has_waited = false;
#pragma unroll 1
  for (;;) {
    // Other keys than the newest are older than the step.
    if (kTurn != Turn::kDone || has_waited) fetch(p, item, first, inputs.page, keys);
    if (!has_waited) {
      cluster_arrive();
      pdl_wait();
    }
    inputs.load(p, item, first);
    const int context_now = load_context(p);
    const int page_now = load_page(p, item, first);
    const bool is_same = __all_sync(0xffffffffu, context_now == context && page_now == inputs.page);
    if (is_same && (kTurn != Turn::kDone || has_waited)) break;
    has_waited = true;
    context = context_now;
    item = find(p, rule, context, index);
    inputs.page = load_page(p, item, first);
    cp_async_wait<0>();  // what was asked for too early was in vain
    __syncwarp();
  }
  if (item.sequence < 0) cluster_wait();

#pragma unroll 1
  while (item.sequence >= 0) {
    const int tiles = item.tiles();
    if (first < tiles) {
      HeadSums sums;
      sums.clear();
      attend(p, item, first, inputs, keys, sums);
      store_sums(sums, p.ratio, p.scale, reinterpret_cast<float*>(shared.tiles[warp]),
                 shared.warp_sums[warp]);
    }
    __syncthreads();
    cluster_wait();  // every block has begun, and has read what it was sent before
    if (threadIdx.x == 0) {
      const int bytes = kColumns * sizeof(float) + sizeof(float2);  // of a row
      mbarrier_arrive_expect(sent, kDecodeCluster * p.ratio * bytes);
    }
    send(shared, p.ratio, max(0, min((tiles - rank + kDecodeCluster - 1) / kDecodeCluster, kWarps)),
         rank);
    index += clusters;
    const Item next = find(p, rule, context, index);
    mbarrier_wait(sent, parity);
    parity ^= 1;
    if (next.sequence >= 0) {
      __syncthreads();  // the tiles' place is free
      inputs.page = load_page(p, next, first);
      fetch(p, next, first, inputs.page, keys);
      inputs.load(p, next, first);
    }
    write(p, item, rank, shared);
    __syncwarp();
    if (next.sequence >= 0) cluster_arrive();
    item = next;
  }
}

}  // namespace ernie::decode_cluster

#endif  // ERNIE_HOPPER
