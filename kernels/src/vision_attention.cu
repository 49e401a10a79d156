// Full attention of image patches inside their segments (frames), head sizes that are multiples of
// 8 without padding to a power of two. Two kernels: one turns q and k and lays each head's rows
// together, one is flash attention: with mma.sync here, with wgmma in vision_attention_hopper.cu.
#include "ernie/attention.h"
#include "ernie/attention_shape.h"
#include "ernie/context.h"
#include "ernie/flash.cuh"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/rope.cuh"
#include "ernie/vision_arguments.h"

#include <cmath>

namespace ernie {
namespace {

constexpr int kTurnThreads = 256;

// A thread owns eight values of one head: four pairs of q or k, half a head apart, or a piece of v.
__global__ void __launch_bounds__(kTurnThreads) turn_kernel(const VisionArguments p) {
  pdl_trigger();
  pdl_wait();
  const int pieces = p.head / 8;
  const int64_t index = int64_t(blockIdx.x) * kTurnThreads + threadIdx.x;
  const int64_t row = index / pieces;
  const int piece = static_cast<int>(index - row * pieces);
  const int64_t patch = row / (3 * p.heads);
  const int which = static_cast<int>(row - patch * (3 * p.heads));  // part · heads + head
  if (patch >= p.patches) return;
  const bf16* from = p.qkv + row * p.head;
  bf16* to = p.turned + (int64_t(which) * p.patches + patch) * p.head;
  if (which >= 2 * p.heads) {
    store_16(to + piece * 8, load_16(from + piece * 8));
    return;
  }
  const int64_t angle = patch * (p.head / 2) + piece * 4;
  turn_halves(from + piece * 4, to + piece * 4, p.head / 2, p.cosines + angle, p.sines + angle);
}

template <int kHead>
__global__ void __launch_bounds__(kFlashThreads, FlashShape<kHead>::kBlocks)
    vision_attention_kernel(const VisionArguments p) {
  using Shape = FlashShape<kHead>;
  extern __shared__ __align__(16) char shared[];
  pdl_trigger();
  clear_padding<kHead>(shared, 4 * kFlashKeys);
  pdl_wait();
  ItemFinder finder;
  const ItemPlace place = finder.find(blockIdx.x, p.segments, [&](int s) {
    return (p.cu_seqlens[s + 1] - p.cu_seqlens[s] + Shape::kRows - 1) / Shape::kRows;
  });
  if (place.segment < 0) return;
  const int start = p.cu_seqlens[place.segment];
  const int size = p.cu_seqlens[place.segment + 1] - start;
  const int warp_row = place.item * Shape::kRows + threadIdx.x / 32 * Shape::kWarpRows;
  const int64_t head_rows = int64_t(blockIdx.y) * p.patches + start;
  const bf16* queries = p.turned + head_rows * kHead;
  const int64_t part = int64_t(p.heads) * p.patches * kHead;
  const bf16* keys = queries + part;
  const bf16* values = keys + part;

  QueryFragments<kHead, Shape::kTiles> q;
  q.load([&](int row) -> const bf16* {
    return warp_row + row < size ? queries + int64_t(warp_row + row) * kHead : nullptr;
  });
  const auto copy = [&](int tile, uint32_t keys_to, uint32_t values_to) {
    const int first = tile * kFlashKeys;
    const int valid = size - first;
    const auto offset = [&](int r) { return int64_t(first + min(r, valid - 1)) * kHead; };
    copy_rows<kHead, kFlashKeys, kFlashThreads>(keys_to, threadIdx.x, valid,
                                                [&](int r) { return keys + offset(r); });
    copy_rows<kHead, kFlashKeys, kFlashThreads>(values_to, threadIdx.x, valid,
                                                [&](int r) { return values + offset(r); });
  };
  SoftmaxState<kHead, Shape::kTiles> state;
  flash_loop<kHead>(q, state, shared_address(shared), size, size, p.scale, copy,
                    [&](int, int) { return size; });
  store_rows(state, [&](int row) -> bf16* {
    if (warp_row + row >= size) return nullptr;
    return p.out + (int64_t(start + warp_row + row) * p.heads + blockIdx.y) * kHead;
  });
}

}  // namespace

Tensor vision_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                        const Tensor& cu_seqlens, int max_len, int heads) {
  expect(qkv, "qkv", DType::kBF16, {-1, -1});
  const int64_t patches = qkv.size(0), width = qkv.size(1);
  if (heads < 1 || width % (3 * int64_t(heads)) != 0) {
    fail("qkv has " + std::to_string(width) + " columns; expected a multiple of 3 · " +
         std::to_string(heads) + " heads");
  }
  const int64_t head = width / (3 * heads);
  expect(cos, "cos", DType::kF32, {patches, head / 2});
  expect(sin, "sin", DType::kF32, {patches, head / 2});
  expect(cu_seqlens, "cu_seqlens", DType::kI32, {-1});
  if (cu_seqlens.size(0) < 2) {
    fail("cu_seqlens has " + std::to_string(cu_seqlens.size(0)) + " entries; expected 2 or more");
  }
  if (max_len < 1) fail("max_len is " + std::to_string(max_len) + "; expected at least 1");
  Context& context = qkv.context();
  const int64_t segments = cu_seqlens.size(0) - 1;
  Tensor out = context.empty({patches, heads * head}, DType::kBF16);
  Tensor turned = context.empty({3, heads, patches, head}, DType::kBF16);
  const VisionArguments p{qkv.ptr<bf16>(),    cos.ptr<float>(),
                          sin.ptr<float>(),   cu_seqlens.ptr<int>(),
                          turned.ptr<bf16>(), out.ptr<bf16>(),
                          int(patches),       int(segments),
                          max_len,            heads,
                          int(head),          kLog2E / std::sqrt(float(head))};
  const int64_t items = patches * width / 8;
  launch(context, turn_kernel, dim3(unsigned((items + kTurnThreads - 1) / kTurnThreads)),
         dim3(kTurnThreads), 0, p);
  if (context.capability() == 90 && (head == 72 || head == 80)) {
    vision_attention_hopper(context, p);
    return out;
  }
  with_head_size(p.head, [&](auto size) {
    constexpr int kHead = decltype(size)::value;
    using Shape = FlashShape<kHead>;
    launch(context, vision_attention_kernel<kHead>,
           dim3(unsigned(p.most_tiles(Shape::kRows)), unsigned(heads)), dim3(kFlashThreads),
           Shape::kSharedBytes, p);
  });
  return out;
}

}  // namespace ernie
