// The instructions of kernels/include/ernie/decode_instructions.cuh on the CPU.
#pragma once

#include <cuda_bf16.h>

namespace ernie {

// The driver says what is there while the kernel before still runs.
int load_racing(const int* from);

inline void touch_line(const void* line) {
  const volatile char readable = *static_cast<const char*>(line);
  static_cast<void>(readable);
}

inline void hint_line(const void* line) { touch_line(line); }

inline void hint_bytes(const void* from, int bytes) {
  if (bytes % 16 != 0) emulator::stop("a hint of no whole 16 bytes");
  touch_line(from);
  touch_line(static_cast<const char*>(from) + bytes - 1);
}

inline void store_shared_4(uint32_t to, uint32_t value) {
  std::memcpy(emulator::at(to / 16 * 16) + to % 16, &value, sizeof value);
}

inline void clear_shared_16(uint32_t to) { std::memset(emulator::at(to), 0, 16); }

inline int arrive(int* counter, int count) {
  const int before = *counter;
  *counter += count;
  emulator::linger();
  return before;
}

inline uint32_t transpose_8x8(uint32_t pair) {
  const int lane = emulator::current % 32;
  return emulator::collective<uint32_t>(pair, [&](const uint64_t* lanes) {
    uint32_t out = 0;
    for (int i = 0; i < 2; ++i) {
      const int row = lane % 4 * 2 + i, column = lane / 4;
      const auto from = static_cast<uint32_t>(lanes[row * 4 + column / 2]);
      out |= (from >> (16 * (column % 2)) & 0xffffu) << (16 * i);
    }
    return out;
  });
}

}  // namespace ernie
