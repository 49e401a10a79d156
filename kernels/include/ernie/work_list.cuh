// The work list of a grouped product: which tile of which group a block computes next.
//
// A group is a run of rows that share a weight matrix (an expert and its pairs); its rows are known
// on the device only. Every block builds the same list, a prefix sum of the groups' item counts,
// and takes every gridDim-th item. Items are what a cluster of kCluster blocks does at one time:
//
//   kCluster 1: one tile.
//   kCluster 2: two tiles that lie one above the other and so share the weights, or, in the last
//     row of tiles when their number is odd, two side by side. No block idles for odd numbers of
//     row tiles then.
//
// Within a group, bands of kBand items are walked column by column: the blocks that run together
// read few rows and few weights, which stay in the L2.
#pragma once

#include <cstdint>

namespace ernie {

// Rows of the groups of one launch. `offsets` [num_groups + 1] is on the device; when it is null
// there is one group of `rows` rows.
struct Groups {
  const int* offsets;
  int num_groups;
  int rows;
};

struct Tile {
  int group;
  int first_row;  // of all rows
  int rows;       // that exist from there to the group's end; may exceed the tile, or be <= 0
  int column;     // index of the column tile
  bool above;     // the cluster's tiles lie one above the other
};

constexpr int kMaxGroups = 1024;

template <int kTileRows, int kCluster>
class WorkList {
 public:
  static_assert(kCluster == 1 || kCluster == 2, "items are tiles or pairs of tiles");
  static constexpr int kBand = 8;

  // Ints of shared memory the list takes.
  __host__ __device__ static constexpr int shared_ints(int num_groups) {
    return 2 * (num_groups + 1);
  }

  // Items of a group of so many rows.
  __device__ static int items(int rows, int column_tiles) {
    const int row_tiles = (rows + kTileRows - 1) / kTileRows;
    const int odd = row_tiles % kCluster;
    return (row_tiles / kCluster) * column_tiles + odd * ((column_tiles + 1) / kCluster);
  }

  // Called by one whole warp; others may read after a barrier.
  __device__ static void build(const Groups& groups, int column_tiles, int* shared) {
    int* starts = shared;
    int* rows = shared + groups.num_groups + 1;
    const int lane = threadIdx.x % 32;
    int sum = 0;
    for (int base = 0; base < groups.num_groups; base += 32) {
      const int g = base + lane;
      int first = 0, end = 0;
      if (g < groups.num_groups) {
        first = groups.offsets ? groups.offsets[g] : 0;
        end = groups.offsets ? groups.offsets[g + 1] : groups.rows;
      }
      int scan = items(end - first, column_tiles);
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(0xffffffffu, scan, step);
        if (lane >= step) scan += below;
      }
      if (g < groups.num_groups) {
        starts[g + 1] = sum + scan;
        rows[g] = first;
        rows[g + 1] = end;  // the next group's first row: both lanes write the same value
      }
      sum += __shfl_sync(0xffffffffu, scan, 31);
    }
    if (lane == 0) starts[0] = 0;
  }

  __device__ WorkList(const int* shared, int num_groups, int column_tiles)
      : starts_(shared),
        rows_(shared + num_groups + 1),
        column_tiles_(column_tiles),
        count_(shared[num_groups]) {}

  __device__ int count() const { return count_; }

  // Items must be asked for in rising order. `rank` is the block's place in the cluster.
  __device__ Tile tile(int item, int rank) {
    while (item >= starts_[group_ + 1]) ++group_;
    const int first = rows_[group_];
    const int rows = rows_[group_ + 1] - first;
    const int row_tiles = (rows + kTileRows - 1) / kTileRows;
    const int units = row_tiles / kCluster;  // rows of items that lie above one another
    int index = item - starts_[group_];
    int row_tile, column;
    const bool above = kCluster == 1 || index < units * column_tiles_;
    if (above) {
      const int band = index / (kBand * column_tiles_);
      index -= band * kBand * column_tiles_;
      const int height = min(kBand, units - band * kBand);
      column = index / height;
      row_tile = (band * kBand + index - column * height) * kCluster + (kCluster == 1 ? 0 : rank);
    } else {
      column = (index - units * column_tiles_) * kCluster + rank;
      row_tile = row_tiles - 1;
    }
    return Tile{group_, first + row_tile * kTileRows, rows - row_tile * kTileRows, column, above};
  }

 private:
  const int* starts_;
  const int* rows_;
  int column_tiles_;
  int count_;
  int group_ = 0;
};

}  // namespace ernie
