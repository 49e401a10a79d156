// Arguments that the vision attention kernels share, and the one that is not in vision_attention.cu.
#pragma once

#include "ernie/context.h"
#include "ernie/vector.cuh"

namespace ernie {

struct VisionArguments {
  const bf16* qkv;       // [N, 3, heads, d]
  const float* cosines;  // [N, d / 2]
  const float* sines;
  const int* cu_seqlens;
  bf16* turned;  // [3, heads, N, d]: q and k turned, v
  bf16* out;     // [N, heads, d]
  int patches;
  int segments;
  int max_len;
  int heads;
  int head;
  float scale;  // d^-0.5 · log2(e)

  // The most tiles of `rows` patches that the segments can make, each segment rounded up.
  int64_t most_tiles(int rows) const {
    const int64_t all = int64_t(patches) / rows + segments;
    const int64_t longest = (int64_t(max_len) + rows - 1) / rows * segments;
    return all < longest ? all : longest;
  }
};

// Head sizes 72 and 80 on Hopper: wgmma and TMA.
void vision_attention_hopper(Context& context, const VisionArguments& p);

}  // namespace ernie
