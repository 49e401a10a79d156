// The instructions of kernels/include/ernie/stream_memory.cuh on the CPU.
#pragma once

#include "ernie/mma.cuh"

namespace ernie {

inline void cp_async_weights(uint32_t shared, const void* global, bool valid) {
  cp_async_16(shared, global, valid);
}

inline uint4 load_shared_16(uint32_t address) {
  uint4 value;
  std::memcpy(&value, emulator::at(address), sizeof value);
  return value;
}

}  // namespace ernie
