// Attention inside segments of image patches on Hopper, head sizes 72 and 80. The rows of every head
// lie together, so one copy brings a tile's half; columns past the head arrive as zeros, which makes
// 72 a whole number of steps.
#include "ernie/flash_sm90.cuh"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/tensor_map.h"
#include "ernie/vision_arguments.h"

namespace ernie {
namespace {

// `map` covers p.turned as rows of kHead values.
template <int kHead>
__global__ void __launch_bounds__(HopperShape<kHead>::kThreads, 1)
    vision_attention_hopper_kernel(const __grid_constant__ VisionArguments p,
                                   const __grid_constant__ CUtensorMap map) {
#if defined(ERNIE_HOPPER)
  using Shape = HopperShape<kHead>;
  extern __shared__ char memory[];
  const HopperShared<kHead> shared(memory);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  pdl_trigger();
  if (threadIdx.x == 0) {
    prefetch_tensor_map(map);
    shared.init_barriers();
  }
  __syncthreads();
  pdl_wait();
  ItemFinder finder;
  const ItemPlace place = finder.find(blockIdx.x, p.segments, [&](int s) {
    return (p.cu_seqlens[s + 1] - p.cu_seqlens[s] + Shape::kRows - 1) / Shape::kRows;
  });
  if (place.segment < 0) return;
  const int start = p.cu_seqlens[place.segment];
  const int size = p.cu_seqlens[place.segment + 1] - start;
  const int head = blockIdx.y;

  if (warp < 4) {
    setmaxnreg_dec<24>();
    if (warp > 0) return;
    // Lane l copies half l; rows past the segment are masked or cleared by the consumers.
    const auto copy = [&](int part, int tile, uint32_t to, uint32_t barrier) {
      if (lane == 0) mbarrier_arrive_expect(barrier, Shape::kTileBytes);
      __syncwarp();
      if (lane < Shape::kHalves) {
        const int row = (part * p.heads + head) * p.patches + start + tile * Shape::kKeys;
        tma_load(to + lane * Shape::kHalfBytes, map, barrier, lane * 64, row);
      }
    };
    produce(
        shared, (size + Shape::kKeys - 1) / Shape::kKeys,
        [&](int tile, uint32_t to, uint32_t barrier) { copy(1, tile, to, barrier); },
        [&](int tile, uint32_t to, uint32_t barrier) { copy(2, tile, to, barrier); });
  } else {
    setmaxnreg_inc<240>();
    const int group = warp / 4 - 1;
    const int first_row = place.item * Shape::kRows + group * 64;
    const bf16* queries = p.turned + (int64_t(head) * p.patches + start) * kHead;
    Consumer<kHead> consumer(shared, group);
    consumer.load_queries([&](int row) -> const bf16* {
      return first_row + row < size ? queries + int64_t(first_row + row) * kHead : nullptr;
    });
    const int limits[2] = {size, size};
    consumer.run(size, size, limits, p.scale);
    consumer.store([&](int row) -> bf16* {
      if (first_row + row >= size) return nullptr;
      return p.out + (int64_t(start + first_row + row) * p.heads + head) * kHead;
    });
  }
#endif
}

template <int kHead>
void run(Context& context, const VisionArguments& p) {
  using Shape = HopperShape<kHead>;
  launch(context, vision_attention_hopper_kernel<kHead>,
         dim3(static_cast<unsigned>(p.most_tiles(Shape::kRows)), static_cast<unsigned>(p.heads)),
         dim3(Shape::kThreads), Shape::kSharedBytes, p,
         matrix_map(p.turned, int64_t(3) * p.heads * p.patches, kHead, Shape::kKeys));
}

}  // namespace

void vision_attention_hopper(Context& context, const VisionArguments& p) {
  if (p.head == 72) {
    run<72>(context, p);
  } else {
    run<80>(context, p);
  }
}

}  // namespace ernie
