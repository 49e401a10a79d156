// The threads of a block, or of some clusters of blocks, on the CPU: each is a coroutine that runs until
// a barrier, a warp's collective or its end. Blocks go on by turns of any length and warps sleep now and
// then, so that some are far ahead of others. Shared addresses are checked: those of other blocks of the
// cluster hold the block's rank, and are for messages alone.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace emulator {

constexpr int kStackBytes = 1 << 16;
constexpr int kMostThreads = 3840;  // that run together
constexpr uint32_t kSharedStart = 1024;
constexpr int kRankShift = 24;  // of a cluster address

struct Copy {
  char* to;
  const void* from;
  int bytes;
};

enum class State { kReady, kPolling, kAtBarrier, kAtCluster, kInWarp, kDone };

struct Thread {
  ucontext_t context;  // to begin with
  jmp_buf place;       // to go on from
  bool has_begun = false;
  std::function<bool()> is_done;  // what a polling thread waits for
  State state = State::kReady;
  bool has_waited = false;  // for the kernel before
  int arrived = -1;         // in which phase of the cluster's barrier
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

// What lands in a block's shared memory at any time.
struct Flight {
  int block;
  std::function<void()> land;
};

struct Index {
  unsigned x;
};

inline jmp_buf scheduler;
inline std::vector<std::unique_ptr<char[]>> stacks;
inline std::vector<std::unique_ptr<Thread>> threads;  // block after block
inline int current = 0;
inline int blocks = 1, cluster_blocks = 1, block_threads = 1;
inline std::function<void()> body;
inline std::vector<char> shared;  // of the blocks, as much for each
inline Index block, grid;
inline std::function<bool(const void*)> is_racing;  // what the kernel before may still write
inline bool has_moved = false;  // somebody, since it was last cleared
inline bool is_over = false;    // the block's turn
inline int asleep[kMostThreads / 32];  // turns that a warp is to miss
inline std::vector<Flight> flying;
inline std::mt19937 chance(5);

// A cluster's barrier.
struct Meeting {
  int phase;
  int missing;  // threads
};
inline std::vector<Meeting> meetings;

[[noreturn]] inline void stop(const char* why) {
  std::fprintf(stderr, "%s (block %u, thread %d)\n", why, block.x, current % block_threads);
  std::exit(1);
}

inline Thread& self() { return *threads[current]; }
inline int own_block() { return current / block_threads; }  // of those that run together
inline Meeting& meeting() { return meetings[own_block() / cluster_blocks]; }
inline char* shared_of(int which) { return shared.data() + shared.size() / blocks * which; }

// Jumps from stack to stack: a ucontext switch would be two calls of the system.
inline void pause(State state) {
  self().state = state;
  if (_setjmp(self().place) == 0) _longjmp(scheduler, 1);
}

inline void resume() {
  if (_setjmp(scheduler) != 0) return;
  if (self().has_begun) _longjmp(self().place, 1);
  self().has_begun = true;
  setcontext(&self().context);
}

// Where others may go on because of what this thread has just done, some do before it does.
inline void linger() {
  if (chance() % 2 == 0) return;
  is_over = true;
  pause(State::kReady);
}

inline bool has_ended(int which) {
  for (int i = which * block_threads; i < (which + 1) * block_threads; ++i) {
    if (threads[i]->state != State::kDone) return false;
  }
  return true;
}

inline void land_one() {
  const size_t chosen = chance() % flying.size();
  const Flight flight = std::move(flying[chosen]);
  flying.erase(flying.begin() + static_cast<long>(chosen));
  if (has_ended(flight.block)) stop("something lands in a block that has ended");
  flight.land();
  has_moved = true;
}

// Whether a polling thread goes on; meanwhile something may land.
inline bool poll() {
  if (self().is_done()) return true;
  if (!flying.empty() && chance() % 64 == 0) {
    for (size_t landing = 1 + flying.size() / 64; landing > 0; --landing) land_one();
  }
  return false;
}

// Lets others go on until done(), and maybe longer.
template <class Done>
void wait_until(const Done& done) {
  if (!done()) {
    self().is_done = done;
    pause(State::kPolling);
  }
  if (chance() % 32 == 0) {  // some warps see it late
    asleep[current / 32] = 1 << chance() % 8;
    pause(State::kReady);
  }
  self().state = State::kReady;
  has_moved = true;
}

// The cluster's barrier opens when all threads that have not ended have arrived.
inline void count_in() {
  if (--meeting().missing > 0) return;
  ++meeting().phase;
  const int each = cluster_blocks * block_threads, first = current / each * each;
  for (int i = first; i < first + each; ++i) {
    if (threads[i]->state != State::kDone) ++meeting().missing;
    if (threads[i]->state == State::kAtCluster) threads[i]->state = State::kReady;
  }
}

inline void start() {
  body();
  self().state = State::kDone;
  if (self().arrived != meeting().phase) count_in();
  pause(State::kDone);
}

// Threads first … last - 1 go on if all that have not ended wait in `state`.
inline bool release(int first, int last, State state) {
  bool any = false;
  for (int i = first; i < last; ++i) {
    if (threads[i]->state == State::kDone) continue;
    if (threads[i]->state != state) return false;
    any = true;
  }
  for (int i = first; any && i < last; ++i) {
    if (threads[i]->state == state) threads[i]->state = State::kReady;
  }
  return any;
}

// Every thread of a block goes on as far as it can; false if none got anywhere.
inline bool run_turn(int which) {
  const int first = which * block_threads, last = first + block_threads;
  has_moved = false;
  for (current = first; current < last; ++current) {
    if (current % 32 == 0 && asleep[current / 32] == 0 && chance() % 256 == 0) {
      asleep[current / 32] = 1 << chance() % 10;
    }
    if (self().state != State::kReady && self().state != State::kPolling) continue;
    if (self().state == State::kReady || asleep[current / 32] > 0) has_moved = true;
    if (asleep[current / 32] > 0 || (self().state == State::kPolling && !poll())) continue;
    resume();
  }
  for (int warp = first; warp < last; warp += 32) asleep[warp / 32] -= asleep[warp / 32] > 0;
  for (int warp = first; warp < last; warp += 32) {
    has_moved |= release(warp, std::min(warp + 32, last), State::kInWarp);
  }
  has_moved |= release(first, last, State::kAtBarrier);
  return has_moved;
}

// Runs `clusters` clusters of `count` blocks of `each` threads, of which the first block is block.x.
inline void run_clusters(int clusters, int count, int each, std::function<void()> function) {
  const unsigned first_block = block.x;
  body = std::move(function);
  blocks = clusters * count;
  cluster_blocks = count;
  block_threads = each;
  if (blocks * each > kMostThreads) stop("more threads than can run together");
  meetings.assign(clusters, {0, count * each});
  std::fill(std::begin(asleep), std::end(asleep), 0);
  threads.clear();
  while (static_cast<int>(threads.size()) < blocks * each) {
    if (stacks.size() == threads.size()) stacks.emplace_back(new char[kStackBytes]);
    ucontext_t& context = threads.emplace_back(std::make_unique<Thread>())->context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[threads.size() - 1].get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, start, 0);
  }
  std::vector<int> running(blocks);
  for (int which = 0; which < blocks; ++which) running[which] = which;
  for (size_t idle = 0; !running.empty();) {
    // A block that gets nowhere gives way to the next one; if none gets anywhere, something lands.
    const size_t chosen = idle > 0 ? idle - 1 : chance() % running.size();
    const int which = running[chosen];
    block.x = first_block + which;
    bool any = false;
    is_over = false;
    for (int turns = 1 << chance() % 10; turns > 0 && !is_over && run_turn(which); --turns) any = true;
    if (has_ended(which)) running.erase(running.begin() + static_cast<long>(chosen));
    idle = any ? 0 : idle + 1;
    if (idle <= running.size()) continue;
    if (flying.empty()) stop("deadlock");
    land_one();
    idle = 0;
  }
  current = 0;
  block.x = first_block;
  if (!flying.empty()) stop("a copy that nobody waits for");
}

inline void run_block(int count, std::function<void()> function) {
  run_clusters(1, 1, count, std::move(function));
}

// The bytes at an address of a block's shared memory.
inline char* at(uint32_t address, uint32_t bytes = 16, int which = own_block()) {
  if (address < kSharedStart || address - kSharedStart + bytes > shared.size() / blocks ||
      address % bytes != 0) {
    stop("a shared access out of bounds");
  }
  return shared_of(which) + (address - kSharedStart);
}

// Which block an address of the cluster is of.
inline int block_of(uint32_t address) {
  const int rank = static_cast<int>(address >> kRankShift) - 1;
  if (rank < 0 || rank >= cluster_blocks) stop("an address of no block of the cluster");
  return own_block() / cluster_blocks * cluster_blocks + rank;
}

}  // namespace emulator
