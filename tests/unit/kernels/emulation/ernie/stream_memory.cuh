// The instructions of kernels/include/ernie/stream_memory.cuh on the CPU.
#pragma once

#include "ernie/mma.cuh"

namespace ernie {

inline void cp_async_weights(uint32_t shared, const void* global, bool valid) {
  cp_async_16(shared, global, valid);
}

// Reads what a prefetch names, so that an address outside the weights shows.
inline void prefetch_l2(const void* global, uint32_t bytes) {
  const char* first = static_cast<const char*>(global);
  volatile char sum = 0;
  for (uint32_t i = 0; i < bytes; ++i) sum = sum + first[i];
}

inline uint4 load_shared_16(uint32_t address) {
  uint4 value;
  std::memcpy(&value, emulator::at(address), sizeof value);
  return value;
}

}  // namespace ernie
