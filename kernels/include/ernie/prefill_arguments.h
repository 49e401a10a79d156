// Arguments that the two prefill kernels share.
#pragma once

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

}  // namespace ernie
