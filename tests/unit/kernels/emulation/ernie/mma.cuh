// The instructions of kernels/include/ernie/mma.cuh on the CPU.
#pragma once

#include <cuda_bf16.h>

namespace ernie {

inline uint32_t shared_address(const void* pointer) {
  const char* shared = emulator::shared_of(emulator::own_block());
  const auto offset = static_cast<const char*>(pointer) - shared;
  return static_cast<uint32_t>(offset) + emulator::kSharedStart;
}

inline void cp_async_16(uint32_t shared, const void* global, bool valid = true) {
  const volatile char readable = *static_cast<const char*>(global);
  static_cast<void>(readable);
  if (!emulator::self().has_waited && emulator::is_racing && emulator::is_racing(global)) {
    emulator::stop("a copy of what the kernel before may still write");
  }
  std::memset(emulator::at(shared), 0xff, 16);
  emulator::self().open.push_back({emulator::at(shared), global, valid ? 16 : 0});
}

inline void cp_async_commit() {
  emulator::self().groups.push_back(std::move(emulator::self().open));
  emulator::self().open.clear();
}

template <int kPending>
void cp_async_wait() {
  auto& groups = emulator::self().groups;
  for (; static_cast<int>(groups.size()) > kPending; groups.pop_front()) {
    for (const emulator::Copy& copy : groups.front()) {
      std::memset(copy.to, 0, 16);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
}

struct Operands {
  uint32_t a[4], b[2];
};
inline Operands operands[emulator::kMostThreads / 32][32];

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int lane = emulator::current % 32;
  Operands* warp = operands[emulator::current / 32];
  std::copy(a, a + 4, warp[lane].a);
  std::copy(b, b + 2, warp[lane].b);
  emulator::pause(emulator::State::kInWarp);
  const auto half = [](uint32_t pair, int k) {
    return __uint_as_float(k % 2 ? pair & 0xffff0000u : pair << 16);
  };
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    const int column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2;
      d[i] += half(warp[row % 8 * 4 + t].a[row / 8 + k / 8 * 2], k) *
              half(warp[column * 4 + t].b[k / 8], k);
    }
  }
  emulator::pause(emulator::State::kInWarp);
}

inline void load_matrices(uint32_t (&r)[4], uint32_t row_address, bool transposed) {
  const int lane = emulator::current % 32;
  emulator::collective<uint32_t>(row_address, [&](const uint64_t* rows) {
    for (int m = 0; m < 4; ++m) {
      r[m] = 0;
      for (int i = 0; i < 2; ++i) {
        const int line = lane / 4, across = lane % 4 * 2 + i;
        const int row = transposed ? across : line, column = transposed ? line : across;
        uint16_t element;
        std::memcpy(&element, emulator::at(static_cast<uint32_t>(rows[8 * m + row])) + column * 2,
                    sizeof element);
        r[m] |= uint32_t(element) << (16 * i);
      }
    }
    return 0;
  });
}

inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t row_address) {
  load_matrices(r, row_address, false);
}

inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t row_address) {
  load_matrices(r, row_address, true);
}

}  // namespace ernie
