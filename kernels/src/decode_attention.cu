// Attention of one query per sequence over the paged cache: split-KV flash decoding.
//
// A context is cut into splits by its own length alone, so a row's result does not depend on its
// batch. An item is one split of one (sequence, KV head); the query heads of the KV head are the 16
// rows of the tensor-core tile. A fixed number of blocks walks the list of items, which every warp
// derives from context_lens. The four warps of a block stream 16-key tiles through rings of their
// own and never wait for one another until the item's end, where the block joins their sums. The
// block that finishes the last split of a (sequence, KV head) joins the splits.
#include "ernie/attention.cuh"
#include "ernie/attention.h"
#include "ernie/attention_shape.h"
#include "ernie/context.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"

#include <algorithm>

namespace ernie {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kTile = 16;           // keys of one step of one warp; a page holds a multiple
constexpr int kMaxRatio = 16;       // query heads to one KV head
constexpr int kLeastSplit = 128;    // keys
constexpr int kSplitUnit = kWarps * kTile;
constexpr int kHintTiles = 16;      // asked for early: 264 blocks of 16 tiles are 34 MB, an L2 half

struct DecodeArguments {
  const bf16* q;
  const bf16* k_cache;
  const bf16* v_cache;
  const int* block_tables;
  const int* context_lens;
  bf16* out;
  float* partial_out;   // [S, nkv, split_slots, ratio, d], relative to the split's maxima
  float2* partial_sum;  // [S, nkv, split_slots, ratio]: maximum in log2 units, sum
  int* arrivals;        // [S, nkv], zero between launches
  int sequences;
  int nkv;
  int ratio;
  int tiles_per_page;
  int table_width;   // pages
  int num_pages;
  int most_splits;   // of the longest context there is
  int split_slots;   // of the longest context that the tables can hold
  float scale;       // softmax scale · log2(e)
};

__host__ __device__ inline int keys_per_split(int context, int most_splits) {
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
  static constexpr int kBytes = kRings + kSumBytes;
  static_assert(kWarps * kMaxRatio * kHead * 4 <= kRings, "the warps' sums must fit the rings");
};

struct DecodeItem {
  int sequence;
  int kv_head;
  int split;
  int splits;
  int begin;  // keys
  int end;
};

// A value that an earlier kernel may be writing; see prefetch_item.
__device__ __forceinline__ int load_racing(const int* from) {
  int value;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from));
  return value;
}

template <bool kRacing>
__device__ __forceinline__ int context_of(const DecodeArguments& p, int sequence) {
  const int length = kRacing ? load_racing(p.context_lens + sequence) : p.context_lens[sequence];
  return max(0, min(length, p.table_width * p.tiles_per_page * kTile));
}

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

__device__ __forceinline__ void prefetch_l2(const void* from, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
#endif
}

// Asks for the first item's keys and values while the kernel before this one still runs. Lengths
// and tables may be changing: whatever is read serves this hint alone, is kept inside the cache,
// and is read again after pdl_wait().
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
  prefetch_l2(p.k_cache + at, run * kTile * kHead * 2);
  prefetch_l2(p.v_cache + at, run * kTile * kHead * 2);
}

// One warp's share of an item: tiles warp, warp + 4, … of the split.
template <int kHead>
__device__ __forceinline__ void attend(const DecodeArguments& p, const DecodeItem& item,
                                       uint32_t ring, SoftmaxState<kHead, 1>& state) {
  using Shared = DecodeShared<kHead>;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int first = item.begin / kTile + warp;
  const int tiles = max(0, ((item.end - item.begin + kTile - 1) / kTile - warp + kWarps - 1) / kWarps);
  const int* table = p.block_tables + int64_t(item.sequence) * p.table_width;

  int places = 0;  // lane l: of the tile that is l-th of 32
  const auto fetch = [&](int local) {
    if (local % 32 == 0) {
      const int tile = first + kWarps * (local + lane);
      const int page = local + lane < tiles ? table[tile / p.tiles_per_page] : 0;
      places = tile_place(p, item, tile, page);
    }
    const int64_t at = int64_t(__shfl_sync(0xffffffffu, places, local % 32)) * (kTile * kHead);
    const int valid = item.end - (first + kWarps * local) * kTile;
    const uint32_t to = ring + local % Shared::kStages * (2 * Shared::kTileBytes);
    copy_rows<kHead, kTile, 32>(to, lane, valid,
                                [&](int r) { return p.k_cache + at + r * kHead; });
    copy_rows<kHead, kTile, 32>(to + Shared::kTileBytes, lane, valid,
                                [&](int r) { return p.v_cache + at + r * kHead; });
  };

#pragma unroll 1
  for (int local = 0; local < Shared::kStages; ++local) {
    if (local < tiles) fetch(local);
    cp_async_commit();
  }
  QueryFragments<kHead, 1> q;
  const bf16* rows = p.q + (int64_t(item.sequence) * p.nkv + item.kv_head) * p.ratio * kHead;
  q.load([&](int row) { return row < p.ratio ? rows + row * kHead : nullptr; });
  state.clear();

#pragma unroll 1
  for (int local = 0; local < tiles; ++local) {
    cp_async_wait<Shared::kStages - 1>();
    __syncwarp();
    const uint32_t keys = ring + local % Shared::kStages * (2 * Shared::kTileBytes);
    float scores[1][2][4];
    multiply_keys<kHead, 1, 2>(q, keys, scores);
    const int valid = item.end - (first + kWarps * local) * kTile;
    if (valid < kTile) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (n * 8 + lane % 4 * 2 + i % 2 >= valid) scores[0][n][i] = -INFINITY;
        }
      }
    }
    state.update(scores, p.scale);
    multiply_values<kHead, 1, 2>(scores, keys + Shared::kTileBytes, state);
    __syncwarp();
    if (local + Shared::kStages < tiles) fetch(local + Shared::kStages);
    cp_async_commit();
  }
  cp_async_wait<0>();
  state.finish();
}

// Leaves the warps' sums in shared memory: out f32 [warp][ratio][kHead], sums [warp][16].
template <int kHead>
__device__ __forceinline__ void store_state(const SoftmaxState<kHead, 1>& state, int ratio,
                                            float scale, float* out, float2* sums) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    if (row >= ratio) continue;
    float* to = out + (warp * ratio + row) * kHead + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kHead / 8; ++n) {
      *reinterpret_cast<float2*>(to + n * 8) =
          make_float2(state.out[0][n][2 * half], state.out[0][n][2 * half + 1]);
    }
    if (lane % 4 == 0) {
      sums[warp * kMaxRatio + row] =
          make_float2(state.maximum[0][half] * scale, state.sum[0][half]);
    }
  }
}

__device__ __forceinline__ float weight_of(float maximum, float top) {
  return maximum == -INFINITY ? 0.f : fast_exp2(maximum - top);
}

__device__ __forceinline__ void add_scaled(float4& sum, float4 value, float weight) {
  sum.x = fmaf(value.x, weight, sum.x);
  sum.y = fmaf(value.y, weight, sum.y);
  sum.z = fmaf(value.z, weight, sum.z);
  sum.w = fmaf(value.w, weight, sum.w);
}

__device__ __forceinline__ void store_row(bf16* to, float4 value, float scale) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_2(value.x * scale, value.y * scale),
                                             pack_2(value.z * scale, value.w * scale));
}

// Joins the splits of (sequence, KV head). `weights` holds ratio · splits floats of shared memory.
template <int kHead>
__device__ __forceinline__ void join_splits(const DecodeArguments& p, const DecodeItem& item,
                                            float* weights) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t head = int64_t(item.sequence) * p.nkv + item.kv_head;
  const float2* sums = p.partial_sum + head * p.split_slots * p.ratio;
  for (int row = warp; row < p.ratio; row += kWarps) {
    float top = -INFINITY;
    for (int s = lane; s < item.splits; s += 32) top = fmaxf(top, __ldcg(sums + s * p.ratio + row).x);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, mask));
    }
    float total = 0.f;
    for (int s = lane; s < item.splits; s += 32) {
      const float2 sum = __ldcg(sums + s * p.ratio + row);
      const float weight = weight_of(sum.x, top);
      weights[row * item.splits + s] = weight;
      total = fmaf(weight, sum.y, total);
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) total += __shfl_xor_sync(0xffffffffu, total, mask);
    const float inverse = total > 0.f ? 1.f / total : 0.f;
    for (int s = lane; s < item.splits; s += 32) weights[row * item.splits + s] *= inverse;
  }
  __syncthreads();
  const float* parts = p.partial_out + head * p.split_slots * p.ratio * kHead;
  const int stride = p.ratio * kHead;
  for (int at = threadIdx.x * 4; at < stride; at += kThreads * 4) {
    const float* weight = weights + at / kHead * item.splits;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
    for (int s = 0; s < item.splits; ++s) {
      add_scaled(sum, __ldcg(reinterpret_cast<const float4*>(parts + int64_t(s) * stride + at)),
                 weight[s]);
    }
    store_row(p.out + head * stride + at, sum, 1.f);
  }
}

// Counts this block in and returns how many came before. What the block wrote before its last
// barrier is then visible to the blocks that arrive later.
__device__ __forceinline__ int arrive(int* counter) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(counter)
               : "memory");
  return before;
}

// Joins the warps' sums; writes the rows, or this split's part and, as the last one, the rows.
template <int kHead>
__device__ __forceinline__ void finish_item(const DecodeArguments& p, const DecodeItem& item,
                                            char* shared) {
  const float* parts = reinterpret_cast<const float*>(shared);
  const float2* sums = reinterpret_cast<const float2*>(shared + DecodeShared<kHead>::kRings);
  const int stride = p.ratio * kHead;
  const int64_t head = int64_t(item.sequence) * p.nkv + item.kv_head;
  const int64_t slot = head * p.split_slots + item.split;
  for (int at = threadIdx.x * 4; at < stride; at += kThreads * 4) {
    const int row = at / kHead;
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
      add_scaled(out, *reinterpret_cast<const float4*>(parts + w * stride + at), weight);
    }
    if (item.splits == 1) {
      store_row(p.out + head * stride + at, out, total > 0.f ? 1.f / total : 0.f);
    } else {
      *reinterpret_cast<float4*>(p.partial_out + slot * stride + at) = out;
      if (at % kHead == 0) p.partial_sum[slot * p.ratio + row] = make_float2(top, total);
    }
  }
  if (item.splits == 1) return;

  __syncthreads();  // every thread's part is written; the sums are read
  __shared__ int last;
  if (threadIdx.x == 0) {
    last = arrive(p.arrivals + head) == item.splits - 1;
    if (last) p.arrivals[head] = 0;
  }
  __syncthreads();
  if (!last) return;
  join_splits<kHead>(p, item, reinterpret_cast<float*>(shared));
}

template <int kHead>
__global__ void __launch_bounds__(kThreads, 2) decode_attention_kernel(const DecodeArguments p) {
  using Shared = DecodeShared<kHead>;
  extern __shared__ __align__(16) char shared[];
  pdl_trigger();
  prefetch_item<kHead>(p);
  pdl_wait();

  ItemFinder finder;
  const uint32_t ring = shared_address(shared) + threadIdx.x / 32 * Shared::kRingBytes;
#pragma unroll 1
  for (int index = blockIdx.x;; index += gridDim.x) {
    const DecodeItem item = find_item<false>(p, finder, index);
    if (item.sequence < 0) return;
    // The sums of the item before lay where the padding belongs.
    clear_padding<kHead>(shared, kWarps * Shared::kStages * 2 * kTile);
    if (HeadLayout<kHead>::kHasPadding) __syncthreads();
    SoftmaxState<kHead, 1> state;
    attend<kHead>(p, item, ring, state);
    __syncthreads();  // the rings are free
    store_state(state, p.ratio, p.scale, reinterpret_cast<float*>(shared),
                reinterpret_cast<float2*>(shared + Shared::kRings));
    __syncthreads();
    finish_item<kHead>(p, item, shared);
    __syncthreads();  // shared memory is free
  }
}

}  // namespace

Tensor decode_attention(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                        const Tensor& block_tables, const Tensor& context_lens, float scale) {
  const AttentionShape shape = attention_shape(q, k_cache, v_cache, block_tables, context_lens);
  if (q.size(0) != shape.sequences) {
    fail("q has " + std::to_string(q.size(0)) + " rows; expected one for each of " +
         std::to_string(shape.sequences) + " sequences");
  }
  Context& context = q.context();
  DecodeArguments p{};
  p.q = q.ptr<bf16>();
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
  // The longest contexts fill the device from one sequence: a block for each multiprocessor.
  p.most_splits = std::max(1, context.sm_count() / shape.nkv);
  const int64_t longest = int64_t(shape.table_width) * shape.block_size;
  p.split_slots = static_cast<int>(
      std::min<int64_t>(p.most_splits, std::max<int64_t>(1, (longest + kLeastSplit - 1) / kLeastSplit)));

  const int64_t heads = int64_t(shape.sequences) * shape.nkv;
  Tensor out = context.empty({shape.sequences, int64_t(shape.nq) * shape.head}, DType::kBF16);
  p.out = out.ptr<bf16>();
  Tensor partial_out, partial_sum;
  if (p.split_slots > 1) {
    partial_out = context.empty({heads * p.split_slots * shape.ratio, shape.head}, DType::kF32);
    partial_sum = context.empty({heads * p.split_slots * shape.ratio, 2}, DType::kF32);
    p.partial_out = partial_out.ptr<float>();
    p.partial_sum = partial_sum.ptr<float2>();
    p.arrivals = static_cast<int*>(context.workspace(heads * sizeof(int)));
  }
  const int64_t blocks = std::min<int64_t>(2 * context.sm_count(), heads * p.split_slots);
  with_head_size(shape.head, [&](auto head) {
    constexpr int kHead = decltype(head)::value;
    launch(context, decode_attention_kernel<kHead>, dim3(static_cast<unsigned>(blocks)),
           dim3(kThreads), DecodeShared<kHead>::kBytes, p);
  });
  return out;
}

}  // namespace ernie
