// What the two decode attention kernels are given, and what they need of the host.
#pragma once

#include <cstdint>

#include "ernie/vector.cuh"

namespace ernie {

class Context;

// What is left to do to the queries and the newest key: nothing, or to turn their pairs.
enum class Turn { kDone, kNeighbours, kHalves };

struct DecodeArguments {
  const bf16* q;  // rows of q_stride values; of q, k and v if they are to be turned
  bf16* k_cache;
  bf16* v_cache;
  const float* cosines;  // [S, d / 2] if there is something to turn
  const float* sines;
  const int* block_tables;
  const int* context_lens;
  bf16* out;
  float* partial_out;   // [S, nkv, split_slots, ratio, d], relative to the split's maxima
  float2* partial_sum;  // [S, nkv, split_slots, ratio]: maximum in log2 units, sum
  int* arrivals;        // [S, nkv], zero between launches
  int sequences;
  int nkv;
  int ratio;
  int q_stride;
  int tiles_per_page;
  int table_width;  // pages
  int num_pages;
  int most_splits;  // of the longest context there is
  int split_slots;  // of the longest context that the tables can hold
  int rounds;       // in which the warps' sums are joined, kHead / rounds columns at a time
  float scale;      // softmax scale · log2(e)
};

constexpr int kHopperRatio = 8;  // query heads to one KV head that the next one takes

// The kernel for head size 128 on Hopper.
void decode_attention_hopper(Context& context, const DecodeArguments& p, Turn turn);

}  // namespace ernie
