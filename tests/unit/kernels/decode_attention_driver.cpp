// Runs ernie/decode_block.cuh on the CPU. Each input line is a case:
//   blocks log_rounds, then what decode_attention_case.h reads
// Its output line is that header's report.
#include "decode_attention_case.h"

#include <iostream>

#include "ernie/decode_block.cuh"

namespace stream = ernie::decode_stream;

namespace {

void run(DecodeCase& one, stream::StreamShape shape, int blocks) {
  shape.rule = {6, 9, 8};
  shape.box_rows = std::gcd(one.block_size(), stream::kTile);
  shape.tail_rows = 16;
  shape.paired = blocks % 2 == 0;
  one.make_parts([&](int length) { return shape.rule.splits(length); }, 1);
  const int64_t rows = int64_t(one.p.num_pages) * one.p.nkv * one.block_size();
  const auto map = [&](const std::vector<bf16>& cache, int box_rows) {
    return CUtensorMap{cache.data(), rows, kHead, box_rows};
  };
  const stream::CacheMaps maps{map(one.keys(), shape.box_rows), map(one.values(), shape.box_rows),
                               map(one.keys(), shape.tail_rows), map(one.values(), shape.tail_rows)};
  emulator::grid.x = blocks;
  for (int b = 0; b < blocks; ++b) {
    emulator::block.x = b;
    emulator::barriers.clear();
    emulator::named_barriers.clear();
    emulator::shared.assign(shape.bytes(one.p.ratio), static_cast<char>(0xff));
    one.with_turn([&](auto turn) {
      emulator::run_block(stream::kThreads, [&] {
        stream::run_block<turn.value>(one.p, shape, maps, emulator::shared.data());
      });
    });
  }
}

}  // namespace

int main() {
  stream::StreamShape shape{};
  for (int blocks; std::cin >> blocks >> shape.log_rounds;) {
    DecodeCase one(std::cin);
    run(one, shape, blocks);
    one.report(std::cout);
  }
}
