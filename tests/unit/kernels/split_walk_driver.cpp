// Walks the splits of ernie/split_walk.cuh on the CPU. Each input line: logarithms of most splits,
// whole and least, KV heads, blocks, sequences, their contexts. Output: one line for each split that
// a block does: block sequence kv_head split splits begin end tiles; then "end".
#include <iostream>
#include <vector>

#include "emulator.h"

#include "ernie/split_walk.cuh"

int main() {
  ernie::SplitRule rule{};
  int nkv, blocks, sequences;
  while (std::cin >> rule.log_most >> rule.log_whole >> rule.log_least >> nkv >> blocks >> sequences) {
    std::vector<int> contexts(sequences);
    for (int& context : contexts) std::cin >> context;
    const auto context_of = [&](int sequence) { return contexts[sequence]; };
    for (int block = 0; block < blocks; ++block) {
      emulator::run_block(32, [&] {
        ernie::SplitWalk walk(rule, sequences, nkv, context_of);
        for (walk.start(block, blocks); walk.sequence >= 0; walk.next()) {
          if (threadIdx.x != 17) continue;
          std::cout << block << ' ' << walk.sequence << ' ' << walk.kv_head << ' ' << walk.split
                    << ' ' << walk.splits << ' ' << walk.begin() << ' ' << walk.end() << ' '
                    << walk.tiles() << '\n';
        }
      });
    }
    std::cout << "end\n";
  }
}
