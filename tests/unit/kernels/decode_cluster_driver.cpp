// Runs ernie/decode_cluster_block.cuh on the CPU, two clusters at a time. Each input line is a case:
//   clusters most_splits, then what decode_attention_case.h reads
// Its output line is that header's report.
#include "ernie/decode_cluster_block.cuh"

#include <iostream>

#include "decode_attention_case.h"

namespace cluster = ernie::decode_cluster;

namespace {

constexpr int kBlocks = ernie::kDecodeCluster;

void run(DecodeCase& one, int clusters, int most_splits) {
  const ernie::SplitRule rule = cluster::split_rule(most_splits);
  one.p.most_splits = most_splits;
  one.make_parts([&](int length) { return rule.splits(length); }, kBlocks);
  emulator::grid.x = clusters * kBlocks;
  for (int first = 0; first < clusters; first += 2) {
    const int together = std::min(2, clusters - first);
    emulator::block.x = first * kBlocks;
    emulator::barriers.clear();
    emulator::shared.assign(together * kBlocks * sizeof(cluster::Shared), static_cast<char>(0xff));
    one.with_turn([&](auto turn) {
      emulator::run_clusters(together, kBlocks, cluster::kThreads, [&] {
        char* shared = emulator::shared_of(emulator::own_block());
        cluster::run_block<turn.value>(one.p, rule, *reinterpret_cast<cluster::Shared*>(shared));
      });
    });
  }
}

}  // namespace

int main() {
  for (int clusters, most_splits; std::cin >> clusters >> most_splits;) {
    DecodeCase one(std::cin);
    run(one, clusters, most_splits);
    one.report(std::cout);
  }
}
