// Causal attention of prompt chunks over the paged cache, with mma.sync: every head size, every
// device from sm_80. A row of a block's tile is one query head of one token, (token, head) packed,
// so that all query heads of a KV head share its keys and values.
#include "ernie/attention.h"
#include "ernie/attention_shape.h"
#include "ernie/context.h"
#include "ernie/flash.cuh"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/prefill_arguments.h"


namespace ernie {
namespace {

constexpr int kHopperRows = 128;  // shorter chunks leave most of a Hopper tile empty

template <int kHead>
__global__ void __launch_bounds__(kFlashThreads, FlashShape<kHead>::kBlocks)
    prefill_attention_kernel(const PrefillArguments p) {
  using Shape = FlashShape<kHead>;
  extern __shared__ __align__(16) char shared[];
  pdl_trigger();
  clear_padding<kHead>(shared, 4 * kFlashKeys);
  pdl_wait();
  ItemFinder finder;
  const auto tiles_of = [&](int s) {
    const int rows = (p.query_starts[s + 1] - p.query_starts[s]) * p.ratio;
    return (rows + Shape::kRows - 1) / Shape::kRows;
  };
  const ItemPlace place = finder.find(blockIdx.x, p.sequences, tiles_of);
  if (place.segment < 0) return;
  const int kv_head = blockIdx.y;
  const int start = p.query_starts[place.segment];
  const int queries = p.query_starts[place.segment + 1] - start;
  const int context = min(p.context_lens[place.segment], p.table_width * p.block_size);
  const int first_row = (place.count - 1 - place.item) * Shape::kRows;  // the longest rows first
  const int last_row = min(first_row + Shape::kRows, queries * p.ratio) - 1;
  const int earlier = context - queries;  // keys that the first query sees besides its own
  const int warp_row = first_row + threadIdx.x / 32 * Shape::kWarpRows;
  const int lane = threadIdx.x % 32;

  const auto row_offset = [&](int row) {  // in q and out; -1: past the end
    const int packed = warp_row + row;
    if (packed > last_row) return int64_t(-1);
    const int token = packed / p.ratio;
    return (int64_t(start + token) * p.nkv * p.ratio + kv_head * p.ratio + packed % p.ratio) *
           kHead;
  };
  QueryFragments<kHead, Shape::kTiles> q;
  q.load([&](int row) -> const bf16* {
    const int64_t at = row_offset(row);
    return at < 0 ? nullptr : p.q + at;
  });

  // Lane l fetches the page of the l % 4-th sixteen keys of a tile, one tile ahead.
  const int* table = p.block_tables + int64_t(place.segment) * p.table_width;
  const int groups_per_page = p.block_size / 16;
  const int keys = earlier + last_row / p.ratio + 1;
  const auto page_group = [&](int tile) {
    const int group = tile * (kFlashKeys / 16) + lane % 4;
    if (group * 16 >= keys) return 0;
    return (table[group / groups_per_page] * p.nkv + kv_head) * groups_per_page +
           group % groups_per_page;
  };
  int groups = page_group(0);
  const auto copy = [&](int tile, uint32_t keys_to, uint32_t values_to) {
    const int here = groups;
    groups = page_group(tile + 1);
    const int valid = keys - tile * kFlashKeys;
    const auto offset = [&](int r) {
      return (int64_t(__shfl_sync(0xffffffffu, here, r / 16)) * 16 + r % 16) * kHead;
    };
    copy_rows<kHead, kFlashKeys, kFlashThreads>(keys_to, threadIdx.x, valid,
                                                [&](int r) { return p.k_cache + offset(r); });
    copy_rows<kHead, kFlashKeys, kFlashThreads>(values_to, threadIdx.x, valid,
                                                [&](int r) { return p.v_cache + offset(r); });
  };
  int limits[Shape::kTiles][2];
#pragma unroll
  for (int m = 0; m < Shape::kTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int packed = min(warp_row + m * 16 + lane / 4 + 8 * half, last_row);
      limits[m][half] = earlier + packed / p.ratio + 1;
    }
  }
  SoftmaxState<kHead, Shape::kTiles> state;
  flash_loop<kHead>(q, state, shared_address(shared), keys, earlier + first_row / p.ratio + 1,
                    p.scale, copy, [&](int m, int half) { return limits[m][half]; });
  store_rows(state, [&](int row) -> bf16* {
    const int64_t at = row_offset(row);
    return at < 0 ? nullptr : p.out + at;
  });
}

}  // namespace

Tensor prefill_attention(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                         const Tensor& block_tables, const Tensor& context_lens,
                         const Tensor& query_starts, int max_query_len, float scale) {
  const AttentionShape shape = attention_shape(q, k_cache, v_cache, block_tables, context_lens);
  expect(query_starts, "query_starts", DType::kI32, {shape.sequences + 1});
  if (max_query_len < 1) {
    fail("max_query_len is " + std::to_string(max_query_len) + "; expected at least 1");
  }
  Context& context = q.context();
  Tensor out = context.empty({shape.tokens, int64_t(shape.nq) * shape.head}, DType::kBF16);
  const PrefillArguments p{q.ptr<bf16>(),           k_cache.ptr<bf16>(),
                           v_cache.ptr<bf16>(),     block_tables.ptr<int>(),
                           context_lens.ptr<int>(), query_starts.ptr<int>(),
                           out.ptr<bf16>(),         shape.tokens,
                           shape.sequences,         shape.nkv,
                           shape.ratio,             shape.block_size,
                           shape.table_width,       scale * kLog2E};
  const bool fills_tiles = max_query_len * shape.ratio >= kHopperRows;
  if (shape.head == 128 && context.capability() == 90 && fills_tiles) {
    prefill_attention_hopper(context, p, k_cache.numel() / shape.head, max_query_len);
    return out;
  }
  with_head_size(shape.head, [&](auto head) {
    constexpr int kHead = decltype(head)::value;
    using Shape = FlashShape<kHead>;
    launch(context, prefill_attention_kernel<kHead>,
           dim3(static_cast<unsigned>(most_tiles(p, max_query_len, Shape::kRows)),
                static_cast<unsigned>(shape.nkv)),
           dim3(kFlashThreads), Shape::kSharedBytes, p);
  });
  return out;
}

}  // namespace ernie
