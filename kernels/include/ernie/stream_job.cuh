// What a product that streams weights (weight_stream.cuh) is asked for, and how it divides the work.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ernie/vector.cuh"

namespace ernie {

// Groups of token rows, each with its own weights. All pointers are on the device.
struct StreamGroups {
  const int* offsets;  // [num_groups + 1] sorted pairs of the launch's groups
  const int* order;    // [pairs] pair at each sorted position
  int* tickets;        // [2] zero: items given out beyond each block's first two, blocks with enough
  int num_groups;
  int pairs;         // of all groups, also those of other launches
  int slots;         // pairs of one token
  int first_always;  // groups first_always … + num_always - 1 hold every token
  int num_always;
};

struct StreamJob {
  const bf16* x;         // [tokens, depth], or sorted rows [pairs, depth]
  const bf16* w;         // [groups, rows (2 · rows if gated), depth]
  void* out;             // [tokens or pairs, rows]
  const bf16* bias;      // [rows] or null; ungrouped only
  const bf16* residual;  // [tokens, rows] or null; ungrouped only
  int tokens;
  int rows;   // of the result; gate and up rows count once
  int depth;  // a multiple of 8
  int tiles;  // tiles of one group
  bool float_out;
  StreamGroups groups;  // grouped only
};

constexpr int kStreamThreads = 256;
constexpr int kStreamMaxGroups = kStreamThreads;
constexpr int kStreamQueue = 16;  // items between the first loaded and the last computed, at most

template <int kSplit_, int kTiles_, int kSteps_ = 1>
struct StreamShape {
  static constexpr int kSplit = kSplit_;
  static constexpr int kTiles = kTiles_;
  static constexpr int kSteps = kSteps_;
  static constexpr int kRows = 128 / kSplit;
  static constexpr int kDepth = 64 * kSplit * kSteps;
  static constexpr int kTokens = 8 * kTiles;
  static constexpr int kStages = kTiles == 1 ? 5 : 4;
  static constexpr int kPitch = 2 * kDepth;  // bytes of a row in a stage
  static constexpr int kWeightBytes = kRows * kPitch;
  static constexpr int kSumBytes = kSplit == 1 ? 0 : 4096 * kTiles;
  static_assert(kStages + 1 < kStreamQueue, "the queue is too short");

  static int stage_tokens(int tokens) { return tokens < kTokens ? tokens : kTokens; }
  static size_t shared_bytes(int tokens, int pairs) {
    return static_cast<size_t>(kStages) * (kWeightBytes + stage_tokens(tokens) * kPitch) +
           kSumBytes + (3 * kStreamMaxGroups + kStreamQueue + 16) * sizeof(int) +
           static_cast<size_t>(pairs) * sizeof(uint16_t);
  }
};

// Weight rows of a tile of a dense product: fewer until tiles fill the device, more with the tokens.
inline int dense_tile_rows(int tokens, int weight_rows, int multiprocessors, size_t max_shared) {
  const bool few = weight_rows <= 64 * multiprocessors;
  if (tokens <= 8) return few ? 16 : 32;
  if (tokens <= 32) return few ? 32 : 64;
  // 64 tokens with tiles of 64 rows are 128 bytes more than an A100 gives a block.
  return StreamShape<2, 8>::shared_bytes(tokens, 0) <= max_shared ? 64 : 128;
}

// One item: a tile of weight rows of a group, with the group's tokens.
struct StreamItem {
  int group;  // of the launch
  int tile;
  int start;  // sorted position of the first token
  int count;  // tokens
};

}  // namespace ernie
