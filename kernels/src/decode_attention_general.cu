// Decode attention for every head size, ratio and device (ernie/decode_general_block.cuh).
#include <algorithm>

#include "ernie/attention_shape.h"
#include "ernie/context.h"
#include "ernie/decode_general_block.cuh"
#include "ernie/launch.h"

namespace ernie {
namespace {

using namespace decode_general;

template <int kHead, Turn kTurn>
__global__ void __launch_bounds__(kThreads, 2) decode_attention_kernel(const DecodeArguments p) {
  extern __shared__ __align__(16) char shared[];
  run_block<kHead, kTurn>(p, shared);
}

template <int kHead, Turn kTurn>
void start_kernel(Context& context, DecodeArguments p) {
  // Two blocks shall fit a multiprocessor; each costs 1 KiB besides its own.
  using Shared = DecodeShared<kHead>;
  const int limit = (static_cast<int>(context.max_shared_bytes()) + 1024) / 2 - 1024 - 64;
  p.rounds = Shared::rounds(p.ratio, limit);
  const int64_t items = int64_t(p.sequences) * p.nkv * p.split_slots;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(2 * context.sm_count(), items));
  launch(context, decode_attention_kernel<kHead, kTurn>, dim3(blocks), dim3(kThreads),
         Shared::bytes(p.ratio, p.rounds), p);
}

}  // namespace

void decode_attention_general(Context& context, const DecodeArguments& p, int head, Turn turn) {
  with_head_size(head, [&](auto size) {
    constexpr int kHead = decltype(size)::value;
    if (turn == Turn::kDone) return start_kernel<kHead, Turn::kDone>(context, p);
    if constexpr (kHead == 32 || kHead == 128) {
      if (turn == Turn::kNeighbours) return start_kernel<kHead, Turn::kNeighbours>(context, p);
      return start_kernel<kHead, Turn::kHalves>(context, p);
    } else {
      fail("head size " + std::to_string(kHead) + "; expected 32 or 128");
    }
  });
}

}  // namespace ernie
