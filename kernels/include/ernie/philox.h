// Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random
// numbers by name, the same as numpy.random.Philox gives for the key and counter.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ERNIE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ERNIE_HOST_DEVICE inline
#endif

namespace ernie {

ERNIE_HOST_DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// Philox(key, counter=[position, 0, 0, 0]).random_raw(): numpy counts up before it draws.
ERNIE_HOST_DEVICE uint64_t philox_raw(uint64_t key0, uint64_t key1, uint64_t position) {
  uint64_t c0 = position + 1, c1 = c0 == 0, c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    if (round > 0) {
      key0 += 0x9E3779B97F4A7C15ull;
      key1 += 0xBB67AE8584CAA73Bull;
    }
    const uint64_t high0 = multiply_high(0xD2E7470EE14C6C93ull, c0);
    const uint64_t low0 = 0xD2E7470EE14C6C93ull * c0;
    const uint64_t high1 = multiply_high(0xCA5A826395121157ull, c2);
    const uint64_t low1 = 0xCA5A826395121157ull * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
  }
  return c0;
}

}  // namespace ernie
