// Walks the work list of ernie/work_list.cuh on the CPU. Input: column tiles, groups, their offsets.
// Output: one line per tile that a block computes: group first_row rows column above item rank.
#include <algorithm>
#include <iostream>
#include <vector>

#define __device__
#define __host__
struct {
  int x;
} threadIdx;
template <class T>
T __shfl_up_sync(unsigned, T value, int) { return value; }
template <class T>
T __shfl_sync(unsigned, T value, int) { return value; }
using std::min;

#include "ernie/work_list.cuh"

template <int kRows, int kCluster>
void walk(int column_tiles, const std::vector<int>& offsets) {
  using List = ernie::WorkList<kRows, kCluster>;
  const int groups = static_cast<int>(offsets.size()) - 1;
  std::vector<int> shared(List::shared_ints(groups));
  for (int g = 0; g < groups; ++g) {
    shared[g + 1] = shared[g] + List::items(offsets[g + 1] - offsets[g], column_tiles);
  }
  std::copy(offsets.begin(), offsets.end(), shared.begin() + groups + 1);
  constexpr int kClusters = 5;
  for (int cluster = 0; cluster < kClusters; ++cluster) {
    for (int rank = 0; rank < kCluster; ++rank) {
      List list(shared.data(), groups, column_tiles);
      for (int item = cluster; item < list.count(); item += kClusters) {
        const ernie::Tile tile = list.tile(item, rank);
        std::cout << tile.group << ' ' << tile.first_row << ' ' << tile.rows << ' ' << tile.column
                  << ' ' << tile.above << ' ' << item << ' ' << rank << '\n';
      }
    }
  }
}

int main(int argc, char** argv) {
  const int cluster = argc > 1 ? std::atoi(argv[1]) : 0;
  int column_tiles, groups;
  while (std::cin >> column_tiles >> groups) {
    std::vector<int> offsets(groups + 1);
    for (int& offset : offsets) std::cin >> offset;
    if (cluster == 1) walk<64, 1>(column_tiles, offsets);
    if (cluster == 2) walk<128, 2>(column_tiles, offsets);
    std::cout << "end\n";
  }
}
