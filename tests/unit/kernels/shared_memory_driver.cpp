// What kernels take of a block's shared memory, in bytes. Each input line is one of
//   dense tokens weight_rows multiprocessors limit    bytes of the product's tiles
//   decode head ratio limit                           bytes of the general decode attention, rounds
#include <iostream>
#include <string>

#include "ernie/decode_items.cuh"
#include "ernie/stream_job.cuh"

namespace {

size_t dense_bytes(int tokens, int tile_rows) {
  switch (tile_rows) {
    case 16: return ernie::StreamShape<8, 1>::shared_bytes(tokens, 0);
    case 32: return tokens <= 8 ? ernie::StreamShape<4, 1>::shared_bytes(tokens, 0)
                                : ernie::StreamShape<4, 4>::shared_bytes(tokens, 0);
    case 64: return tokens <= 32 ? ernie::StreamShape<2, 4>::shared_bytes(tokens, 0)
                                 : ernie::StreamShape<2, 8>::shared_bytes(tokens, 0);
    default: return ernie::StreamShape<1, 8>::shared_bytes(tokens, 0);
  }
}

template <int kHead>
void print_decode(int ratio, int limit) {
  using Shared = ernie::decode_general::DecodeShared<kHead>;
  const int rounds = Shared::rounds(ratio, limit);
  std::cout << Shared::bytes(ratio, rounds) << ' ' << rounds << std::endl;
}

}  // namespace

int main() {
  for (std::string what; std::cin >> what;) {
    if (what == "dense") {
      int tokens, weight_rows, multiprocessors;
      size_t limit;
      std::cin >> tokens >> weight_rows >> multiprocessors >> limit;
      const int rows = ernie::dense_tile_rows(tokens, weight_rows, multiprocessors, limit);
      std::cout << dense_bytes(tokens, rows) << ' ' << rows << std::endl;
      continue;
    }
    int head, ratio, limit;
    std::cin >> head >> ratio >> limit;
    switch (head) {
      case 32: print_decode<32>(ratio, limit); break;
      case 64: print_decode<64>(ratio, limit); break;
      case 72: print_decode<72>(ratio, limit); break;
      case 80: print_decode<80>(ratio, limit); break;
      case 96: print_decode<96>(ratio, limit); break;
      case 128: print_decode<128>(ratio, limit); break;
    }
  }
}
