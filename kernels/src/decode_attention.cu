// Attention of one query per sequence over the paged cache: split-KV flash decoding.
//
// Two other kernels serve Hopper: decode_attention_long and decode_attention_cluster. This one serves
// what is left.
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
#include "ernie/attention.cuh"
#include "ernie/attention.h"
#include "ernie/attention_shape.h"
#include "ernie/context.h"
#include "ernie/decode_parts.cuh"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"

#include <algorithm>

namespace ernie {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kTile = 16;           // keys of one step of one warp; a page holds a multiple
constexpr int kMaxRatio = 16;       // query heads to one KV head
constexpr int kWhole = 512;         // keys up to which joining splits costs more than it saves
constexpr int kLeastSplit = 256;    // keys
constexpr int kSplitUnit = kWarps * kTile;
constexpr int kHintTiles = 16;      // asked for early: 264 blocks of 16 tiles are 34 MB, an L2 half

__host__ __device__ inline int keys_per_split(int context, int most_splits) {
  if (context <= kWhole) return kWhole;
  const int even = (context + most_splits - 1) / most_splits;
  const int rounded = (even + kSplitUnit - 1) / kSplitUnit * kSplitUnit;
  return rounded > kLeastSplit ? rounded : kLeastSplit;
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

template <int kHead, Turn kTurn>
__global__ void __launch_bounds__(kThreads, 2) decode_attention_kernel(const DecodeArguments p) {
  using Shared = DecodeShared<kHead>;
  extern __shared__ __align__(16) char shared[];
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

DecodeKernel choose(const Context& context, const AttentionShape& shape, bool long_contexts) {
  if (context.capability() / 10 != 9 || shape.head != kHopperHead || shape.ratio > kHopperRatio) {
    return DecodeKernel::kGeneral;
  }
  // Few sequences: with long contexts, too (8 x 16,384 keys 67 us for 83).
  if (shape.sequences <= kDecodeClusterSequences &&
      shape.sequences * shape.nkv <= decode_clusters(context)) {
    return DecodeKernel::kCluster;
  }
  return long_contexts ? DecodeKernel::kLong : DecodeKernel::kGeneral;
}

// Derives the rest of `p` and calls start(p, kernel) with what it needs alive.
template <class Start>
Tensor run(Context& context, const AttentionShape& shape, const Tensor& k_cache,
           const Tensor& v_cache, const Tensor& block_tables, const Tensor& context_lens,
           float scale, bool long_contexts, DecodeArguments p, const Start& start) {
  p.k_cache = k_cache.ptr<bf16>();
  p.v_cache = v_cache.ptr<bf16>();
  p.block_tables = block_tables.ptr<int>();
  p.context_lens = context_lens.ptr<int>();
  p.sequences = shape.sequences;
  p.nkv = shape.nkv;
  p.ratio = shape.ratio;
  p.tiles_per_page = shape.block_size / kTile;
  p.table_width = shape.table_width;
  p.num_pages = static_cast<int>(k_cache.size(0));
  p.scale = scale * kLog2E;
  const DecodeKernel kernel = choose(context, shape, long_contexts);
  const bool is_cluster = kernel == DecodeKernel::kCluster;
  // The longest contexts fill the device from one sequence: a block for each multiprocessor, of
  // the kernel for long contexts two. Of few sequences every split has a cluster at once.
  // (Joining them needs 2 floats of shared memory each, where the warps' outputs had kHead · 4.)
  const int parts = is_cluster                       ? decode_clusters(context) / shape.sequences
                    : kernel == DecodeKernel::kLong ? 2 * context.sm_count()
                                                     : context.sm_count();
  p.most_splits = std::max(1, std::min(parts / shape.nkv, shape.head / 2));
  const int64_t longest = int64_t(shape.table_width) * shape.block_size;
  p.split_slots = static_cast<int>(std::min<int64_t>(
      p.most_splits, longest <= kWhole ? 1 : (longest + kLeastSplit - 1) / kLeastSplit));

  const int64_t heads = int64_t(shape.sequences) * shape.nkv;
  Tensor out = context.empty({shape.sequences, int64_t(shape.nq) * shape.head}, DType::kBF16);
  p.out = out.ptr<bf16>();
  Tensor partial_out, partial_sum;
  if (p.split_slots > 1) {
    partial_out = context.empty({heads * p.split_slots * shape.ratio, shape.head}, DType::kF32);
    const int64_t sharing = is_cluster ? kDecodeCluster : 1;
    partial_sum = context.empty({heads * p.split_slots * sharing * shape.ratio, 2}, DType::kF32);
    p.partial_out = partial_out.ptr<float>();
    p.partial_sum = partial_sum.ptr<float2>();
    p.arrivals = static_cast<int*>(context.workspace(heads * sharing * sizeof(int)));
  }
  start(p, kernel);
  return out;
}

template <int kHead, Turn kTurn>
void start_kernel(Context& context, DecodeArguments p, DecodeKernel kernel) {
  if (kernel == DecodeKernel::kLong) return decode_attention_long(context, p, kTurn);
  if (kernel == DecodeKernel::kCluster) return decode_attention_cluster(context, p, kTurn);
  // Two blocks shall fit a multiprocessor; each costs 1 KiB besides its own.
  using Shared = DecodeShared<kHead>;
  const int limit = (static_cast<int>(context.max_shared_bytes()) + 1024) / 2 - 1024 - 64;
  p.rounds = 1;
  while (p.rounds < 4 && Shared::bytes(p.ratio, p.rounds) > limit) p.rounds *= 2;
  const int64_t items = int64_t(p.sequences) * p.nkv * p.split_slots;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(2 * context.sm_count(), items));
  launch(context, decode_attention_kernel<kHead, kTurn>, dim3(blocks), dim3(kThreads),
         Shared::bytes(p.ratio, p.rounds), p);
}

}  // namespace

Tensor decode_attention(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                        const Tensor& block_tables, const Tensor& context_lens, float scale,
                        bool long_contexts) {
  const AttentionShape shape = attention_shape(q, k_cache, v_cache, block_tables, context_lens);
  if (q.size(0) != shape.sequences) {
    fail("q has " + std::to_string(q.size(0)) + " rows; expected one for each of " +
         std::to_string(shape.sequences) + " sequences");
  }
  DecodeArguments p{};
  p.q = q.ptr<bf16>();
  p.q_stride = shape.nq * shape.head;
  return run(q.context(), shape, k_cache, v_cache, block_tables, context_lens, scale, long_contexts,
             p,
             [&](const DecodeArguments& p, DecodeKernel kernel) {
               with_head_size(shape.head, [&](auto head) {
                 start_kernel<decltype(head)::value, Turn::kDone>(q.context(), p, kernel);
               });
             });
}

Tensor rope_decode_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                             const Tensor& k_cache, const Tensor& v_cache,
                             const Tensor& block_tables, const Tensor& context_lens, int nq,
                             bool interleaved, float scale, bool long_contexts) {
  expect(k_cache, "k_cache", DType::kBF16, {-1, -1, -1, -1});
  const int64_t nkv = k_cache.size(1), head = k_cache.size(3);
  if (nq < 1) fail("nq is " + std::to_string(nq) + "; expected at least 1");
  expect(context_lens, "context_lens", DType::kI32, {-1});
  const int64_t rows = context_lens.size(0);
  expect(qkv, "qkv", DType::kBF16, {rows, (nq + 2 * nkv) * head});
  expect(cos, "cos", DType::kF32, {rows, head / 2});
  expect(sin, "sin", DType::kF32, {rows, head / 2});
  const Tensor heads = qkv.view({rows, nq + 2 * nkv, head});
  AttentionShape shape =
      attention_shape(heads, k_cache, v_cache, block_tables, context_lens, nq);
  DecodeArguments p{};
  p.q = qkv.ptr<bf16>();
  p.q_stride = static_cast<int>(qkv.size(1));
  p.cosines = cos.ptr<float>();
  p.sines = sin.ptr<float>();
  Context& context = qkv.context();
  return run(context, shape, k_cache, v_cache, block_tables, context_lens, scale, long_contexts,
             p,
             [&](const DecodeArguments& p, DecodeKernel kernel) {
               if (head == 128) {
                 interleaved ? start_kernel<128, Turn::kNeighbours>(context, p, kernel)
                             : start_kernel<128, Turn::kHalves>(context, p, kernel);
               } else if (head == 32) {
                 interleaved ? start_kernel<32, Turn::kNeighbours>(context, p, kernel)
                             : start_kernel<32, Turn::kHalves>(context, p, kernel);
               } else {
                 fail("head size " + std::to_string(head) + "; expected 32 or 128");
               }
             });
}

}  // namespace ernie
