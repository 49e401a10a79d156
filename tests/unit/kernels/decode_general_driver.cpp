// Runs ernie/decode_general_block.cuh on the CPU. Each input line is a case:
//   blocks rounds most_splits, then what decode_attention_case.h reads
// Its output line is that header's report.
#include "emulator.h"

#undef __shared__
#define __shared__ static  // what the block's threads share: blocks run one after the other
#include "ernie/decode_general_block.cuh"

#include <iostream>

#include "decode_attention_case.h"

namespace general = ernie::decode_general;

namespace {

void run(DecodeCase& one, int blocks, int most_splits) {
  one.p.most_splits = most_splits;
  one.make_parts([&](int length) { return general::splits_of(length, most_splits); }, 1);
  emulator::grid.x = blocks;
  for (int b = 0; b < blocks; ++b) {
    emulator::block.x = b;
    const int bytes = general::DecodeShared<kHead>::bytes(one.p.ratio, one.p.rounds);
    emulator::shared.assign(bytes, static_cast<char>(0xff));
    one.with_turn([&](auto turn) {
      emulator::run_block(general::kThreads, [&] {
        general::run_block<kHead, turn.value>(one.p, emulator::shared.data());
      });
    });
  }
}

}  // namespace

int main() {
  for (int blocks, rounds, most_splits; std::cin >> blocks >> rounds >> most_splits;) {
    DecodeCase one(std::cin);
    one.p.rounds = rounds;
    run(one, blocks, most_splits);
    one.report(std::cout);
  }
}
