// Causal attention of prompt chunks over the paged cache on Hopper, head size 128. Rows are packed
// as in prefill_attention.cu; keys and values come page by page through the copy engine.
#include "ernie/flash_sm90.cuh"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/prefill_arguments.h"
#include "ernie/tensor_map.h"

#include <numeric>

namespace ernie {
namespace {

constexpr int kHead = 128;
using Shape = HopperShape<kHead>;

// box_rows: rows of one copy; it divides both the page and the tile.
__global__ void __launch_bounds__(Shape::kThreads, 1)
    prefill_attention_hopper_kernel(const __grid_constant__ PrefillArguments p,
                                    const __grid_constant__ CUtensorMap key_map,
                                    const __grid_constant__ CUtensorMap value_map,
                                    const int box_rows) {
#if defined(ERNIE_HOPPER)
  extern __shared__ char memory[];
  const HopperShared<kHead> shared(memory);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  pdl_trigger();
  if (threadIdx.x == 0) {
    prefetch_tensor_map(key_map);
    prefetch_tensor_map(value_map);
    shared.init_barriers();
  }
  __syncthreads();
  pdl_wait();
  ItemFinder finder;
  const ItemPlace place = finder.find(blockIdx.x, p.sequences, [&](int s) {
    const int rows = (p.query_starts[s + 1] - p.query_starts[s]) * p.ratio;
    return (rows + Shape::kRows - 1) / Shape::kRows;
  });
  if (place.segment < 0) return;
  const int kv_head = blockIdx.y;
  const int start = p.query_starts[place.segment];
  const int queries = p.query_starts[place.segment + 1] - start;
  const int context = min(p.context_lens[place.segment], p.table_width * p.block_size);
  const int first_row = (place.count - 1 - place.item) * Shape::kRows;  // the longest rows first
  const int last_row = min(first_row + Shape::kRows, queries * p.ratio) - 1;
  const int earlier = context - queries;  // keys that the first query sees besides its own
  const int keys = earlier + last_row / p.ratio + 1;

  if (warp < 4) {
    setmaxnreg_dec<24>();
    if (warp > 0) return;
    // Lane l copies half l % 2 of box l / 2. Its page is read one tile ahead.
    const int* table = p.block_tables + int64_t(place.segment) * p.table_width;
    const int boxes = Shape::kKeys / box_rows;
    const int box = lane / Shape::kHalves;
    const int half = lane % Shape::kHalves;
    const auto row_of = [&](int tile) {
      const int key = tile * Shape::kKeys + box * box_rows;
      if (box >= boxes || key >= keys) return -1;
      return (table[key / p.block_size] * p.nkv + kv_head) * p.block_size + key % p.block_size;
    };
    const auto copy = [&](const CUtensorMap& map, int tile, int row, uint32_t to,
                          uint32_t barrier) {
      if (lane == 0) {
        const int rest = keys - tile * Shape::kKeys;
        const int wanted = min(boxes, (rest + box_rows - 1) / box_rows);
        mbarrier_arrive_expect(barrier, wanted * box_rows * Shape::kHalves * 128);
      }
      __syncwarp();
      if (row >= 0) {
        tma_load(to + half * Shape::kHalfBytes + box * box_rows * 128, map, barrier, half * 64, row);
      }
    };
    int next = row_of(0), row = -1;
    produce(
        shared, (keys + Shape::kKeys - 1) / Shape::kKeys,
        [&](int tile, uint32_t to, uint32_t barrier) {
          row = next;
          next = row_of(tile + 1);
          copy(key_map, tile, row, to, barrier);
        },
        [&](int tile, uint32_t to, uint32_t barrier) { copy(value_map, tile, row, to, barrier); });
  } else {
    setmaxnreg_inc<240>();
    const int group = warp / 4 - 1;
    const int group_row = first_row + group * 64;
    const auto offset_of = [&](int row) {  // in q and out; -1: past the end
      const int packed = group_row + row;
      if (packed > last_row) return int64_t(-1);
      const int token = packed / p.ratio;
      return (int64_t(start + token) * p.nkv * p.ratio + kv_head * p.ratio + packed % p.ratio) *
             kHead;
    };
    Consumer<kHead> consumer(shared, group);
    consumer.load_queries([&](int row) -> const bf16* {
      const int64_t at = offset_of(row);
      return at < 0 ? nullptr : p.q + at;
    });
    int limits[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int packed = min(group_row + warp % 4 * 16 + lane / 4 + 8 * h, last_row);
      limits[h] = earlier + packed / p.ratio + 1;
    }
    consumer.run(keys, earlier + first_row / p.ratio + 1, limits, p.scale);
    consumer.store([&](int row) -> bf16* {
      const int64_t at = offset_of(row);
      return at < 0 ? nullptr : p.out + at;
    });
  }
#endif
}

}  // namespace

void prefill_attention_hopper(Context& context, const PrefillArguments& p, int64_t rows,
                              int max_query_len) {
  const int box_rows = std::gcd(p.block_size, Shape::kKeys);
  launch(context, prefill_attention_hopper_kernel,
         dim3(static_cast<unsigned>(most_tiles(p, max_query_len, Shape::kRows)),
              static_cast<unsigned>(p.nkv)),
         dim3(Shape::kThreads), Shape::kSharedBytes, p,
         matrix_map(p.k_cache, rows, kHead, box_rows), matrix_map(p.v_cache, rows, kHead, box_rows),
         box_rows);
}

}  // namespace ernie
