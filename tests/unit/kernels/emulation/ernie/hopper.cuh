// Instructions of kernels/include/ernie/hopper.cuh on the CPU. Copies of the copy engine and messages
// to other blocks land in any order, while somebody waits, and leave NaN until then.
#pragma once

#define ERNIE_HOPPER 1

#include <map>

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

inline std::map<std::pair<int, uint32_t>, Barrier> barriers;  // by block and address
inline std::map<std::pair<int, int>, std::pair<int, int>> named_barriers;  // who waits, openings

inline Barrier& barrier_at(uint32_t address, int block = own_block()) {
  const auto found = barriers.find({block, address});
  if (found == barriers.end()) stop("a barrier that is none");
  return found->second;
}

inline void count_bytes(uint32_t barrier, int block, int bytes) {
  Barrier& its = barrier_at(barrier, block);
  its.bytes -= bytes;
  its.settle();
}

}  // namespace emulator

namespace ernie {

inline void mbarrier_init(uint32_t barrier, uint32_t count) {
  const emulator::Barrier fresh{int(count), int(count), 0, 0};
  const bool is_new = emulator::barriers.insert({{emulator::own_block(), barrier}, fresh}).second;
  if (!is_new) emulator::stop("a barrier is initialised twice");
}

inline void mbarrier_retire(uint32_t barrier) {
  emulator::barriers.erase({emulator::own_block(), barrier});
}
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
  emulator::wait_until([&] { return (emulator::barrier_at(barrier).phase & 1) != parity; });
}

inline void tma_load(uint32_t shared, const CUtensorMap& map, uint32_t barrier, int column,
                     int row) {
  if (shared % 1024 != 0) emulator::stop("a box is not where its swizzle begins");
  for (int r = 0; r < map.box_rows; ++r) {
    for (int at = 0; at < 128; at += 16) {
      std::memset(emulator::at(shared + r * 128 + at), 0xff, 16);
    }
  }
  char* const start = emulator::at(shared);
  const int block = emulator::own_block();
  emulator::flying.push_back({block, [=, &map] {
    for (int r = 0; r < map.box_rows; ++r) {
      if (row + r >= map.rows) emulator::stop("a copy past the end");
      for (int chunk = 0; chunk < 8; ++chunk) {
        std::memcpy(start + r * 128 + (chunk ^ (r % 8)) * 16,
                    map.data + (row + r) * map.columns + column + chunk * 8, 16);
      }
    }
    emulator::count_bytes(barrier, block, map.box_rows * 128);
  }});
}

inline uint32_t cluster_rank() { return emulator::own_block() % emulator::cluster_blocks; }

inline void cluster_arrive() {
  if (emulator::self().arrived >= 0) emulator::stop("a second arrival without a wait");
  emulator::self().arrived = emulator::meeting().phase;
  emulator::count_in();
  emulator::linger();
}

inline void cluster_wait() {
  emulator::Thread& thread = emulator::self();
  if (thread.arrived < 0) emulator::stop("a wait without an arrival");
  if (thread.arrived == emulator::meeting().phase) emulator::pause(emulator::State::kAtCluster);
  thread.arrived = -1;
}

inline uint32_t cluster_address(uint32_t shared, uint32_t rank) {
  if (rank >= static_cast<uint32_t>(emulator::cluster_blocks)) emulator::stop("a rank out of bounds");
  return shared | (rank + 1) << emulator::kRankShift;
}

template <class T>
void send_cluster(uint32_t remote, uint32_t barrier, T words) {
  const int target = emulator::block_of(remote);
  const uint32_t mask = (1u << emulator::kRankShift) - 1;
  if (emulator::block_of(barrier) != target) emulator::stop("a message counts in another block");
  if (emulator::has_ended(target)) emulator::stop("a message to a block that has ended");
  char* const to = emulator::at(remote & mask, sizeof words, target);
  std::memset(to, 0xff, sizeof words);
  emulator::flying.push_back({target, [=] {
    std::memcpy(to, &words, sizeof words);
    emulator::count_bytes(barrier & mask, target, sizeof words);
  }});
}

template <class T>
void tell_cluster(uint32_t place, uint32_t barrier, uint32_t rank, T words) {
  send_cluster(cluster_address(place, rank), cluster_address(barrier, rank), words);
}

inline uint64_t load_cluster(uint32_t shared, uint32_t rank) {
  const int target = emulator::block_of(cluster_address(shared, rank));
  if (emulator::has_ended(target)) emulator::stop("a look into a block that has ended");
  uint64_t value;
  std::memcpy(&value, emulator::at(shared, sizeof value, target), sizeof value);
  return value;
}

inline void copy_bulk(uint32_t shared, const void* from, uint32_t bytes, uint32_t barrier) {
  if (bytes % 16 != 0) emulator::stop("a copy of no whole 16 bytes");
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) emulator::stop("a copy from within 16 bytes");
  for (uint32_t at = 0; at < bytes; at += 16) std::memset(emulator::at(shared + at), 0xff, 16);
  char* const to = emulator::at(shared);
  const int block = emulator::own_block();
  emulator::flying.push_back({block, [=] {
    std::memcpy(to, from, bytes);
    emulator::count_bytes(barrier, block, static_cast<int>(bytes));
  }});
}

template <int kBarrier, int kThreads>
void named_barrier_sync() {
  auto& [waiting, opened] = emulator::named_barriers[{emulator::own_block(), kBarrier}];
  const int before = opened;
  if (++waiting == kThreads) {
    waiting = 0;
    ++opened;
  }
  emulator::wait_until([&, &opened = opened] { return opened != before; });
}

}  // namespace ernie
