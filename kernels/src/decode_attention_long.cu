// Decode attention of long contexts on Hopper; ernie/decode_block.cuh says how it works.
#include <algorithm>
#include <numeric>

#include "ernie/decode_block.cuh"
#include "ernie/launch.h"
#include "ernie/tensor_map.h"

namespace ernie {
namespace {

using namespace decode_stream;

constexpr int kLogWhole = 9;
constexpr int kLogLeast = 8;

template <Turn kTurn>
__global__ void __launch_bounds__(kThreads, 2)
    decode_attention_long_kernel(const __grid_constant__ DecodeArguments p,
                                   const __grid_constant__ StreamShape shape,
                                   const __grid_constant__ CacheMaps maps) {
#if defined(ERNIE_HOPPER)
  extern __shared__ __align__(1024) char shared[];
  run_block<kTurn>(p, shape, maps, shared);
#endif
}

}  // namespace

void decode_attention_long(Context& context, const DecodeArguments& arguments, Turn turn) {
  DecodeArguments p = arguments;
  const int page_keys = p.tiles_per_page * 16;
  StreamShape shape{};
  shape.box_rows = std::gcd(page_keys, kTile);
  shape.tail_rows = 16;
  shape.rule = {0, kLogWhole, kLogLeast};
  while (2 << shape.rule.log_most <= p.most_splits) ++shape.rule.log_most;
  // Two blocks, or one and a block of a neighbouring product, shall fit a multiprocessor.
  const int limit = (static_cast<int>(context.max_shared_bytes()) + 1024) / 2 - 1024;
  while (shape.bytes(p.ratio) > limit) ++shape.log_rounds;
  const int64_t items = int64_t(p.sequences) * p.nkv * p.split_slots;
  shape.paired = items > context.sm_count() && p.sequences > 2;
  const unsigned blocks = static_cast<unsigned>(
      shape.paired ? 2 * context.sm_count() : std::min<int64_t>(context.sm_count(), items));
  const int64_t rows = int64_t(p.num_pages) * p.nkv * page_keys;
  const CacheMaps maps{matrix_map(p.k_cache, rows, kHead, shape.box_rows),
                       matrix_map(p.v_cache, rows, kHead, shape.box_rows),
                       matrix_map(p.k_cache, rows, kHead, shape.tail_rows),
                       matrix_map(p.v_cache, rows, kHead, shape.tail_rows)};
  const auto start = [&](auto kernel) {
    launch(context, kernel, dim3(blocks), dim3(kThreads), shape.bytes(p.ratio), p, shape, maps);
  };
  switch (turn) {
    case Turn::kDone: return start(decode_attention_long_kernel<Turn::kDone>);
    case Turn::kNeighbours: return start(decode_attention_long_kernel<Turn::kNeighbours>);
    case Turn::kHalves: return start(decode_attention_long_kernel<Turn::kHalves>);
  }
}

}  // namespace ernie
