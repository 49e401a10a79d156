// A block of CUDA threads on the CPU: each is a coroutine that runs until a barrier, a warp's
// collective or its end. Asynchronous copies arrive when they are waited for, no earlier, and leave
// NaN until then. Shared addresses are checked. Blocks run one after another.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline

using std::max;
using std::min;

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __expf(float x) { return std::exp(x); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __ffs(unsigned v) { return __builtin_ffs(static_cast<int>(v)); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }

namespace emulator {

constexpr int kStackBytes = 1 << 16;
constexpr uint32_t kSharedStart = 1024;

struct Copy {
  char* to;
  const void* from;
  int bytes;
};

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  enum { kReady, kAtBarrier, kInWarp, kDone } state = kReady;
  bool has_waited = false;  // for the kernel before
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Index {
  unsigned x;
};

inline ucontext_t scheduler;
inline std::vector<std::unique_ptr<Thread>> threads;
inline int current = 0;
inline std::function<void()> body;
inline std::vector<char> shared;  // of the block
inline uint64_t values[32][32];   // of each warp's lanes in a collective
inline Index block, grid;

[[noreturn]] inline void stop(const char* why) {
  std::fprintf(stderr, "%s (block %u, thread %d)\n", why, block.x, current);
  std::exit(1);
}

inline Thread& self() { return *threads[current]; }

inline void pause(decltype(Thread::state) state) {
  self().state = state;
  swapcontext(&self().context, &scheduler);
}

inline void start() {
  body();
  pause(Thread::kDone);
}

// Threads first … last - 1 go on if all that have not ended wait in `state`.
inline bool release(int first, int last, decltype(Thread::state) state) {
  bool any = false;
  for (int i = first; i < last; ++i) {
    if (threads[i]->state == Thread::kDone) continue;
    if (threads[i]->state != state) return false;
    any = true;
  }
  for (int i = first; any && i < last; ++i) {
    if (threads[i]->state == state) threads[i]->state = Thread::kReady;
  }
  return any;
}

inline void run_block(int count, std::function<void()> function) {
  body = std::move(function);
  threads.clear();
  for (int i = 0; i < count; ++i) {
    threads.push_back(std::make_unique<Thread>());
    Thread& thread = *threads.back();
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, start, 0);
  }
  for (bool all_done = false; !all_done;) {
    bool moved = false;
    all_done = true;
    for (current = 0; current < count; ++current) {
      if (self().state == Thread::kReady) {
        moved = true;
        swapcontext(&scheduler, &self().context);
      }
      all_done = all_done && self().state == Thread::kDone;
    }
    for (int first = 0; first < count; first += 32) moved |= release(first, first + 32, Thread::kInWarp);
    moved |= release(0, count, Thread::kAtBarrier);
    if (!moved && !all_done) stop("deadlock");
  }
}

// What `combine` makes of all lanes' values; the lanes meet before and after.
template <class T, class Combine>
T collective(T value, Combine combine) {
  uint64_t* lanes = values[current / 32];
  lanes[current % 32] = 0;
  std::memcpy(&lanes[current % 32], &value, sizeof value);
  pause(Thread::kInWarp);
  const T result = combine(lanes);
  pause(Thread::kInWarp);
  return result;
}

inline char* at(uint32_t address) {
  if (address < kSharedStart || address - kSharedStart + 16 > shared.size() || address % 16 != 0) {
    stop("a shared access out of bounds");
  }
  return shared.data() + (address - kSharedStart);
}

struct ThreadIndex {
  struct X {
    operator unsigned() const { return static_cast<unsigned>(current); }
  } x;
};

}  // namespace emulator

inline emulator::ThreadIndex threadIdx;
inline emulator::Index& blockIdx = emulator::block;
inline emulator::Index& gridDim = emulator::grid;

inline void __syncthreads() { emulator::pause(emulator::Thread::kAtBarrier); }
inline void __threadfence() {}
inline int __ldcg(const int* source) { return *source; }
inline int atomicAdd(int* target, int value) {
  *target += value;
  return *target - value;
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  return emulator::collective<unsigned>(vote, [](const uint64_t* lanes) {
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i) votes |= lanes[i] ? 1u << i : 0u;
    return votes;
  });
}
inline bool __all_sync(unsigned, bool vote) {
  return __ballot_sync(0xffffffffu, vote) == 0xffffffffu;
}
inline void __syncwarp() {
  emulator::collective<int>(0, [](const uint64_t*) { return 0; });
}

namespace emulator {

template <class T>
T from_lane(T value, int lane) {
  return collective<T>(value, [&](const uint64_t* lanes) {
    T result;
    std::memcpy(&result, &lanes[lane], sizeof result);
    return result;
  });
}

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::from_lane(value, lane);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int by) {
  const int lane = emulator::current % 32;
  return emulator::from_lane(value, lane >= by ? lane - by : lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::from_lane(value, (emulator::current % 32) ^ mask);
}
inline float2 __ldcg(const float2* source) { return *source; }
inline float4 __ldcg(const float4* source) { return *source; }
