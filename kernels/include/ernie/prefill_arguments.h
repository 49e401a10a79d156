// Arguments that the two prefill kernels share, and the one that is not in prefill_attention.cu.
#pragma once

#include "ernie/context.h"
#include "ernie/vector.cuh"

namespace ernie {

struct PrefillArguments {
  const bf16* q;
  const bf16* k_cache;
  const bf16* v_cache;
  const int* block_tables;
  const int* context_lens;
  const int* query_starts;
  bf16* out;
  int tokens;
  int sequences;
  int nkv;
  int ratio;
  int block_size;
  int table_width;
  float scale;  // softmax scale · log2(e)
};

// The most tiles of `tile` packed rows that the sequences can make, each sequence rounded up.
inline int64_t most_tiles(const PrefillArguments& p, int max_query_len, int tile) {
  const int64_t all = int64_t(p.tokens) * p.ratio / tile + p.sequences;
  const int64_t longest = (int64_t(max_query_len) * p.ratio + tile - 1) / tile * p.sequences;
  return all < longest ? all : longest;
}

// Head size 128 on Hopper: wgmma and TMA. `rows` is the number of rows of 128 values in each cache.
void prefill_attention_hopper(Context& context, const PrefillArguments& p, int64_t rows,
                              int max_query_len);

}  // namespace ernie
