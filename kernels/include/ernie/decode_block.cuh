// Attention of one query per sequence over the paged cache on Hopper, head size 128: a block's work.
//
// A block is one producer warp, which brings tiles of 32 keys and values by TMA through a ring that
// does not stop at the ends of splits, and a consumer warp for each stage of the ring. A consumer
// does a tile alone: Sᵀ = K Qᵀ with keys as the 16 rows of the tensor-core tile and query heads as
// its 8 columns, softmax, Oᵀ += Vᵀ Pᵀ. At a split's end the consumers join their sums while the
// ring fills up again. A block counts its splits of a head in at once, when it goes on to another
// head: a count waits for all that the block has written. Who counts last joins the splits.
//
// Tile i of a split always adds to sum i % kStages, whichever warp holds that, so that a row's
// result does not depend on its batch.
#pragma once

#include "ernie/decode_stream.cuh"
#include "ernie/pdl.cuh"

#if defined(ERNIE_HOPPER)

namespace ernie::decode_stream {

__device__ __forceinline__ void consumers_sync() { named_barrier_sync<1, kConsumers * 32>(); }

// Joins the first `active` sums, of which this warp holds number `mine`; writes the rows, or the
// split's part. Calls meanwhile() when this warp's sums are stored.
template <class Meanwhile>
__device__ __forceinline__ void join_warps(const DecodeArguments& p, const StreamShape& shape,
                                           const Walk& walk, const HeadSums& sums,
                                           int mine, int active, float* parts,
                                           float2* part_sums, const Meanwhile& meanwhile) {
  const int lane = threadIdx.x % 32;
  const int log_width = 7 - shape.log_rounds;
  const int width = 1 << log_width;
  const int pitch = width + 4;  // the 8 columns of 4 head pairs lie in different banks
  const int64_t head = int64_t(walk.sequence) * p.nkv + walk.kv_head;
  const int64_t slot = head * p.split_slots + walk.split;
#pragma unroll 1
  for (int round = 0; round < 1 << shape.log_rounds; ++round) {
    const int first = round * width;
    consumers_sync();  // what was there is read
    if (mine < active) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = lane % 4 * 2 + h;
        if (row >= p.ratio) continue;
        float* to = parts + (mine * p.ratio + row) * pitch + lane / 4 - first;
#pragma unroll
        for (int m = 0; m < 8; ++m) {
          if (m * 16 < first || m * 16 >= first + width) continue;
          to[m * 16] = sums.out[m][h];
          to[m * 16 + 8] = sums.out[m][2 + h];
        }
        if (lane < 4 && round == 0) {
          part_sums[mine * kMostHeads + row] = make_float2(sums.top[h] * p.scale, sums.sum[h]);
        }
      }
    }
    if (round + 1 == 1 << shape.log_rounds) meanwhile();
    consumers_sync();
    for (int at = threadIdx.x * 4; at < p.ratio * width; at += kConsumers * 32 * 4) {
      const int row = at >> log_width;
      const int column = at & (width - 1);
      float top = -INFINITY;
      for (int w = 0; w < active; ++w) top = fmaxf(top, part_sums[w * kMostHeads + row].x);
      float4 out = make_float4(0.f, 0.f, 0.f, 0.f);
      float total = 0.f;
#pragma unroll 4
      for (int w = 0; w < active; ++w) {
        const float2 sum = part_sums[w * kMostHeads + row];
        const float weight = weight_of(sum.x, top);
        total = fmaf(weight, sum.y, total);
        add_scaled(out,
                   *reinterpret_cast<const float4*>(parts + (w * p.ratio + row) * pitch + column),
                   weight);
      }
      const int to = row * kHead + first + column;
      if (walk.splits == 1) {
        store_row(p.out + head * p.ratio * kHead + to, out, total > 0.f ? 1.f / total : 0.f);
      } else {
        *reinterpret_cast<float4*>(p.partial_out + slot * p.ratio * kHead + to) = out;
        if (to % kHead == 0) p.partial_sum[slot * p.ratio + row] = make_float2(top, total);
      }
    }
  }
}

template <Turn kTurn>
__device__ __forceinline__ void consume(const DecodeArguments& p, const StreamShape& shape,
                                        const Ring& ring, int part, float* parts,
                                        float2* part_sums, int* last) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const uint32_t keys = ring.keys(warp);
  const uint32_t values = ring.values(warp);
  Queries<kTurn> q;
  // The newest key is the last one of the last split; `first` is this warp's first tile.
  const auto owns_newest = [&](const auto& at, int first) {
    return kTurn != Turn::kDone && at.split == at.splits - 1 && first < at.tiles() &&
           (at.tiles() - 1 - first) % kConsumers == 0;
  };
  const auto newest_key = [&](const auto& at) {
    return p.q + int64_t(at.sequence) * p.q_stride + (p.nkv * p.ratio + at.kv_head) * kHead;
  };
  const auto turn = [&](const auto& at) {
    if constexpr (kTurn != Turn::kDone) {
      Angles<kTurn> angles;
      angles.load(p.cosines + int64_t(at.sequence) * (kHead / 2),
                  p.sines + int64_t(at.sequence) * (kHead / 2));
      q.turn(angles);
    }
  };
  // Asks for what is needed of another head, or of the same one's next split. Angles, newest key and
  // value wait in the L1: there are no registers for them.
  const auto ask = [&](const auto& at, int first, bool same_head) {
    const bf16* row = p.q + int64_t(at.sequence) * p.q_stride;
    const float* cosines = p.cosines + int64_t(at.sequence) * (kHead / 2);
    const float* sines = p.sines + int64_t(at.sequence) * (kHead / 2);
    if (!same_head) {
      const int head = lane / 4;
      q.load(head < p.ratio ? row + (at.kv_head * p.ratio + head) * kHead : nullptr);
      if (kTurn != Turn::kDone && lane < 4) {
        touch_line(lane < 2 ? cosines + lane * 32 : sines + lane % 2 * 32);
      }
    }
    if (owns_newest(at, first) && lane < 4) {
      const bf16* key = newest_key(at);
      touch_line(lane < 2 ? key + lane * 64 : key + p.nkv * kHead + lane % 2 * 64);
    }
  };
  // What the first split needs is asked for before it is certain which one that is.
  Walk walk(shape.rule, p.sequences, p.nkv, ContextOf{&p});
  bool has_waited = false;
#pragma unroll 1
  for (;;) {
    const Walk asked = walk;
    walk.start(part, gridDim.x);
    if (has_waited && walk.same_as(asked)) break;
    if (!has_waited) {
      if (kTurn != Turn::kDone && walk.sequence >= 0 && warp == 0) {
        hint_angles<kHead>(p, walk.sequence);
      }
      pdl_wait();
      has_waited = true;
    }
    if (walk.sequence >= 0) ask(walk, warp, false);
  }
  __syncthreads();  // the producer knows as well, and the ring is there
  if (walk.sequence >= 0) turn(walk);

  int first = warp;     // this warp's first tile of the split
  uint32_t parity = 0;  // of its next tile
  int done = 0;         // splits of this head that this block has done
#pragma unroll 1
  while (walk.sequence >= 0) {
    const int tiles = walk.tiles();
    const bool has_newest = owns_newest(walk, first);
    const int mine = first;
    HeadSums sums;
    sums.clear();
#pragma unroll 1
    for (int tile = first; tile < tiles; tile += kConsumers) {
      const int valid = walk.end() - walk.begin() - tile * kTile;
      mbarrier_wait(ring.full(warp), parity);
      parity ^= 1;
      if (valid < kTile) clear_values(values, valid);
      if constexpr (kTurn != Turn::kDone) {
        if (has_newest && tile == tiles - 1) {
          const int64_t angles = int64_t(walk.sequence) * (kHead / 2);
          NewestRow<kHead, kTurn> newest;
          newest.load(newest_key(walk), newest_key(walk) + p.nkv * kHead, p.cosines + angles,
                      p.sines + angles);
          newest.turn();
          newest.store_shared(keys, values,
                              [&](int column) { return swizzled<kTile>(valid - 1, column); });
          const int at = walk.context - 1;
          const int page_keys = p.tiles_per_page * 16;
          const int page = p.block_tables[int64_t(walk.sequence) * p.table_width + at / page_keys];
          const int64_t to =
              (int64_t(page * p.nkv + walk.kv_head) * page_keys + at % page_keys) * kHead;
          newest.store(p.k_cache + to, p.v_cache + to);
        }
      }
      __syncwarp();
      sums.add<kTile>(q.b, keys, values, valid, p.scale);
      if (valid < kTile || has_newest) fence_proxy_async();
      __syncwarp();
      if (lane == 0) mbarrier_arrive(ring.empty(warp));
    }
    sums.finish();
    Walk next = walk;
    bool same_head = false;
    first = (first + kConsumers - tiles % kConsumers) % kConsumers;
    join_warps(p, shape, walk, sums, mine, min(tiles, kConsumers), parts, part_sums, [&] {
      next.next();
      same_head = next.sequence == walk.sequence && next.kv_head == walk.kv_head;
      if (next.sequence >= 0) ask(next, first, same_head);
    });

    ++done;
    if (!same_head && walk.splits > 1) {
      const int64_t head = int64_t(walk.sequence) * p.nkv + walk.kv_head;
      consumers_sync();  // every thread's part is written; the warps' sums are read
      bool is_last = done == walk.splits;
      if (!is_last) {
        if (threadIdx.x == 0) {
          *last = arrive(p.arrivals + head, done) + done == walk.splits;
          if (*last) p.arrivals[head] = 0;
        }
        consumers_sync();
        is_last = *last;
      }
      if (is_last) {
        join_splits<kHead, kConsumers>(p, head, walk.splits, parts, consumers_sync);
      }
    }
    if (!same_head) done = 0;
    walk = next;
    if (walk.sequence >= 0 && !same_head) turn(walk);
  }
}

// The block's work. `shared` starts at a multiple of 1024 bytes.
template <Turn kTurn>
__device__ __forceinline__ void run_block(const DecodeArguments& p, const StreamShape& shape,
                                          const CacheMaps& maps, char* shared) {
  pdl_trigger();
  float2* part_sums = reinterpret_cast<float2*>(shared + kStages * kStageBytes);
  float* parts = reinterpret_cast<float*>(shared + StreamShape::outputs_at());
  int* last = reinterpret_cast<int*>(shared + StreamShape::outputs_at() - 16);
  const Ring ring{shared_address(shared)};
  const int part = part_of_block(shape.paired);
  if (threadIdx.x / 32 < kConsumers) {
    consume<kTurn>(p, shape, ring, part, parts, part_sums, last);
    return;
  }
  Producer producer(p, shape, ring, maps);
  if (threadIdx.x % 32 == 0) ring.init();
  __syncwarp();
  Walk walk(shape.rule, p.sequences, p.nkv, ContextOf{&p});
  int rows = 0, early_tiles = 0;
  bool has_waited = false;
#pragma unroll 1
  for (;;) {
    const Walk asked = walk;
    const int asked_rows = rows;
    if (walk.sequence >= 0) rows = producer.load_rows(walk, 0);
    walk.start(part, gridDim.x);
    if (has_waited) {
      if (walk.same_as(asked) && __all_sync(0xffffffffu, rows == asked_rows)) break;
      producer.undo(early_tiles);
      early_tiles = 0;
      continue;
    }
    // Other keys than the newest are older than the step.
    if (walk.sequence >= 0) {
      rows = producer.load_rows(walk, 0);
      if (kTurn != Turn::kDone) early_tiles = min(walk.tiles(), min(producer.chunk(), kStages));
#pragma unroll 1
      for (int tile = 0; tile < early_tiles; ++tile) {
        producer.copy(tile, rows, walk.end() - walk.begin() - tile * kTile);
      }
    }
    pdl_wait();
    has_waited = true;
  }
  __syncthreads();
  producer.run(walk, rows, early_tiles);
}

}  // namespace ernie::decode_stream

#endif  // ERNIE_HOPPER
