// CUDA's words for the threads of coroutines.h. A thread's asynchronous copies arrive when they are
// waited for, no earlier, and leave NaN until then.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "coroutines.h"

#define __device__
#define __host__
#define __global__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline
#define __noinline__

using std::max;
using std::min;

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct int4 {
  int x, y, z, w;
};
struct ulonglong2 {
  uint64_t x, y;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline ulonglong2 make_ulonglong2(uint64_t x, uint64_t y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __expf(float x) { return std::exp(x); }
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline uint64_t __float2ull_rn(float x) { return static_cast<uint64_t>(std::nearbyint(x)); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __ffs(unsigned v) { return __builtin_ffs(static_cast<int>(v)); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }

namespace emulator {

inline uint64_t values[kMostThreads / 32][32];  // of each warp's lanes in a collective

// What `combine` makes of all lanes' values; the lanes meet before and after.
template <class T, class Combine>
T collective(T value, Combine combine) {
  uint64_t* lanes = values[current / 32];
  lanes[current % 32] = 0;
  std::memcpy(&lanes[current % 32], &value, sizeof value);
  pause(State::kInWarp);
  const T result = combine(lanes);
  pause(State::kInWarp);
  return result;
}

struct ThreadIndex {
  struct X {
    operator unsigned() const { return static_cast<unsigned>(current % block_threads); }
  } x;
};

}  // namespace emulator

inline emulator::ThreadIndex threadIdx;
inline struct {
  struct {
    operator unsigned() const { return static_cast<unsigned>(emulator::block_threads); }
  } x;
} blockDim;
inline emulator::Index& blockIdx = emulator::block;
inline emulator::Index& gridDim = emulator::grid;

inline void __syncthreads() { emulator::pause(emulator::State::kAtBarrier); }
inline void __threadfence() {}
template <class T>
T __ldcg(const T* source) {
  return *source;
}
template <class T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
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
inline bool __any_sync(unsigned, bool vote) { return __ballot_sync(0xffffffffu, vote) != 0; }
inline uint32_t __reduce_add_sync(unsigned, uint32_t value) {
  return emulator::collective<uint32_t>(value, [](const uint64_t* lanes) {
    uint32_t sum = 0;
    for (int i = 0; i < 32; ++i) sum += static_cast<uint32_t>(lanes[i]);
    return sum;
  });
}
inline uint32_t __reduce_max_sync(unsigned, uint32_t value) {
  return emulator::collective<uint32_t>(value, [](const uint64_t* lanes) {
    return static_cast<uint32_t>(*std::max_element(lanes, lanes + 32));
  });
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
