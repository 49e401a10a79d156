// What the decode attention kernels are given, and what they need of the host.
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
  float2* partial_sum;  // [S, nkv, split_slots, blocks, ratio]: maximum in log2 units, sum
  int* arrivals;        // [S, nkv, blocks], zero between launches; blocks that share a split
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

void decode_attention_general(Context& context, const DecodeArguments& p, int head, Turn turn);

// Hopper, head size 128, up to 8 query heads to one KV head: for many keys, and for few sequences.
void decode_attention_long(Context& context, const DecodeArguments& p, Turn turn);
void decode_attention_cluster(Context& context, const DecodeArguments& p, Turn turn);

constexpr int kDecodeWhole = 512;  // keys up to which joining splits costs more than it saves
constexpr int kDecodeLeast = 256;  // keys of a split, at least
constexpr int kHopperHead = 128;
constexpr int kHopperRatio = 8;
constexpr int kDecodeCluster = 8;            // blocks
constexpr int kDecodeClusterSequences = 32;  // at most

int decode_clusters(const Context& context);  // of a launch

}  // namespace ernie
