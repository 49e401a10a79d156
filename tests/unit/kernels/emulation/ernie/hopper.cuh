// Instructions of kernels/include/ernie/hopper.cuh on the CPU. Copies of the copy engine land in any
// order, while somebody waits, and leave NaN until then.
#pragma once

#define ERNIE_HOPPER 1

#include <map>
#include <random>

#include "ernie/mma.cuh"

struct CUtensorMap {
  const __nv_bfloat16* data;
  int64_t rows;
  int64_t columns;
  int box_rows;
};

namespace emulator {

struct Barrier {
  int count;
  int arrivals;  // still to come
  int bytes;     // announced or, if negative, come unannounced
  unsigned phase;

  void settle() {
    if (arrivals != 0 || bytes != 0) return;
    arrivals = count;
    ++phase;
  }
};

struct BoxCopy {
  uint32_t to;
  const CUtensorMap* map;
  uint32_t barrier;
  int column;
  int64_t row;
};

inline std::map<uint32_t, Barrier> barriers;
inline std::vector<BoxCopy> flying;
inline std::mt19937 chance(5);
inline std::map<int, std::pair<int, int>> named_barriers;  // who waits, how often it opened

inline Barrier& barrier_at(uint32_t address) {
  const auto found = barriers.find(address);
  if (found == barriers.end()) stop("a barrier that is none");
  return found->second;
}

inline void land_one() {
  const size_t chosen = chance() % flying.size();
  const BoxCopy copy = flying[chosen];
  flying.erase(flying.begin() + static_cast<long>(chosen));
  for (int row = 0; row < copy.map->box_rows; ++row) {
    if (copy.row + row >= copy.map->rows) stop("a copy past the end");
    for (int chunk = 0; chunk < 8; ++chunk) {
      std::memcpy(at(copy.to + row * 128 + (chunk ^ (row % 8)) * 16),
                  copy.map->data + (copy.row + row) * copy.map->columns + copy.column + chunk * 8,
                  16);
    }
  }
  Barrier& barrier = barrier_at(copy.barrier);
  barrier.bytes -= copy.map->box_rows * 128;
  barrier.settle();
}

// Lets others go on; stops the test if nobody gets anywhere.
inline void wait_a_turn() {
  static long turns = 0;
  if (++turns > 20'000'000) stop("endless waiting");
  if (!flying.empty() && chance() % 64 == 0) land_one();
  pause(Thread::kReady);
}

}  // namespace emulator

namespace ernie {

inline void mbarrier_init(uint32_t barrier, uint32_t count) {
  const bool is_new =
      emulator::barriers.insert({barrier, {int(count), int(count), 0, 0}}).second;
  if (!is_new) emulator::stop("a barrier is initialised twice");
}

inline void mbarrier_retire(uint32_t barrier) { emulator::barriers.erase(barrier); }
inline void mbarrier_fence_init() {}
inline void fence_proxy_async() {}
inline void prefetch_tensor_map(const CUtensorMap&) {}

inline void mbarrier_arrive_expect(uint32_t address, uint32_t bytes) {
  emulator::Barrier& barrier = emulator::barrier_at(address);
  if (barrier.arrivals == 0) emulator::stop("a barrier has more arrivals than it takes");
  --barrier.arrivals;
  barrier.bytes += static_cast<int>(bytes);
  barrier.settle();
}

inline void mbarrier_arrive(uint32_t barrier) { mbarrier_arrive_expect(barrier, 0); }

inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  while ((emulator::barrier_at(barrier).phase & 1) == parity) emulator::wait_a_turn();
}

inline void tma_load(uint32_t shared, const CUtensorMap& map, uint32_t barrier, int column,
                     int row) {
  if (shared % 1024 != 0) emulator::stop("a box is not where its swizzle begins");
  for (int r = 0; r < map.box_rows; ++r) {
    for (int at = 0; at < 128; at += 16) {
      std::memset(emulator::at(shared + r * 128 + at), 0xff, 16);
    }
  }
  emulator::flying.push_back({shared, &map, barrier, column, row});
}

template <int kBarrier, int kThreads>
void named_barrier_sync() {
  auto& [waiting, opened] = emulator::named_barriers[kBarrier];
  const int before = opened;
  if (++waiting == kThreads) {
    waiting = 0;
    ++opened;
  }
  while (opened == before) emulator::wait_a_turn();
}

}  // namespace ernie
