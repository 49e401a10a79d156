// Pieces shared by the attention kernels that multiply with mma.sync m16n8k16.
//
// A warp owns 16-row tiles of queries. Per tile of keys it computes S = Q Kᵀ, updates the running
// maximum and sum of each row (in units of log2, so that exp2 does the work), and adds P V. The
// accumulator layout of S is the A operand layout of P: nothing is exchanged between threads but the
// row maxima and sums of four neighbouring lanes. With g = lane / 4 and t = lane % 4, element
// [n][0..1] of an accumulator is (row g, columns 8 n + 2 t, + 1) and [n][2..3] the same of row g + 8.
#pragma once

#include <cstdint>

#include "ernie/exp2.cuh"
#include "ernie/mma.cuh"
#include "ernie/vector.cuh"

namespace ernie {

// maximum · scale - reference, where reference is a later maximum times the scale: exactly 0 when the
// maximum stayed. A fused multiply-add would leave the rounding of the product, and a tile whose keys
// a row does not see would change the row's bits.
__device__ __forceinline__ float shift_of(float maximum, float scale, float reference) {
  return __fadd_rn(__fmul_rn(maximum, scale), -reference);
}

// How keys or values lie in shared memory: rows of an odd number of 16-byte chunks, so that the
// eight rows of one ldmatrix phase touch all banks once. Head size 72 is stored as 80.
template <int kHead>
struct HeadLayout {
  static_assert(kHead % 8 == 0, "rows are moved in 16-byte chunks");
  static constexpr int kChunks = kHead / 8;               // of a row in global memory
  static constexpr int kSteps = (kHead + 15) / 16;        // k16 steps of Q Kᵀ
  static constexpr int kRowBytes = ((2 * kSteps) | 1) * 16;
  static constexpr bool kHasPadding = kSteps * 2 != kChunks;
};

// Queries of kTiles 16-row tiles, as A operands.
template <int kHead, int kTiles>
struct QueryFragments {
  uint32_t a[kTiles][HeadLayout<kHead>::kSteps][4];

  // `row` gives the address of a row's kHead values, or null for a row of zeros.
  template <class RowPointer>
  __device__ __forceinline__ void load(const RowPointer& row) {
    const int lane = threadIdx.x % 32;
    const int column = 2 * (lane % 4);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const bf16* upper = row(tile * 16 + lane / 4);
      const bf16* lower = row(tile * 16 + lane / 4 + 8);
#pragma unroll
      for (int step = 0; step < HeadLayout<kHead>::kSteps; ++step) {
        const int at = step * 16 + column;
        const bool second = step * 16 + 8 < kHead;  // 72: the last step is half empty
        a[tile][step][0] = upper ? *reinterpret_cast<const uint32_t*>(upper + at) : 0u;
        a[tile][step][1] = lower ? *reinterpret_cast<const uint32_t*>(lower + at) : 0u;
        a[tile][step][2] =
            second && upper ? *reinterpret_cast<const uint32_t*>(upper + at + 8) : 0u;
        a[tile][step][3] =
            second && lower ? *reinterpret_cast<const uint32_t*>(lower + at + 8) : 0u;
      }
    }
  }
};

// Running softmax of kTiles 16-row tiles: output sums, row maxima (raw scores) and row sums.
template <int kHead, int kTiles>
struct SoftmaxState {
  static constexpr int kColumns = HeadLayout<kHead>::kSteps * 2;  // of 8 values
  float out[kTiles][kColumns][4];
  float maximum[kTiles][2];  // rows g and g + 8
  float sum[kTiles][2];      // of this lane's columns only, until finish()

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[tile][n][i] = 0.f;
      }
      maximum[tile][0] = maximum[tile][1] = -INFINITY;
      sum[tile][0] = sum[tile][1] = 0.f;
    }
  }

  // Turns scores into probabilities relative to the new maxima and rescales the sums. `scale` is
  // the softmax scale · log2(e). Scores of -inf are masked.
  template <int kKeyTiles>
  __device__ __forceinline__ void update(float (&scores)[kTiles][kKeyTiles][4], float scale) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = maximum[tile][half];
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          top = fmaxf(top, fmaxf(scores[tile][n][2 * half], scores[tile][n][2 * half + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        // A row with nothing but masked keys so far: any finite reference gives zeros.
        const float reference = top == -INFINITY ? 0.f : top * scale;
        const float shrink = fast_exp2(shift_of(maximum[tile][half], scale, reference));
        maximum[tile][half] = top;
        float added = 0.f;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            const float p = fast_exp2(fmaf(scores[tile][n][i], scale, -reference));
            scores[tile][n][i] = p;
            added += p;
          }
        }
        sum[tile][half] = fmaf(sum[tile][half], shrink, added);
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
          out[tile][n][2 * half] *= shrink;
          out[tile][n][2 * half + 1] *= shrink;
        }
      }
    }
  }

  // Row sums over all lanes of a row.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[tile][half] += __shfl_xor_sync(0xffffffffu, sum[tile][half], 1);
        sum[tile][half] += __shfl_xor_sync(0xffffffffu, sum[tile][half], 2);
      }
    }
  }
};

// scores = Q Kᵀ for 8 · kKeyTiles keys whose rows start at shared address `keys`.
template <int kHead, int kTiles, int kKeyTiles>
__device__ __forceinline__ void multiply_keys(const QueryFragments<kHead, kTiles>& q,
                                              uint32_t keys,
                                              float (&scores)[kTiles][kKeyTiles][4]) {
  using Layout = HeadLayout<kHead>;
  static_assert(kKeyTiles % 2 == 0, "keys come in sixteens");
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][n][i] = 0.f;
    }
  }
  const int lane = threadIdx.x % 32;
  const int row = lane % 8 + lane / 16 * 8;
  const uint32_t base = keys + row * Layout::kRowBytes + lane / 8 % 2 * 16;
#pragma unroll
  for (int step = 0; step < Layout::kSteps; ++step) {
#pragma unroll
    for (int pair = 0; pair < kKeyTiles / 2; ++pair) {
      uint32_t b[4];
      ldmatrix_x4(b, base + pair * 16 * Layout::kRowBytes + step * 32);
      const uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        mma_m16n8k16(scores[tile][2 * pair], q.a[tile][step], even);
        mma_m16n8k16(scores[tile][2 * pair + 1], q.a[tile][step], odd);
      }
    }
  }
}

// out += P V for the 8 · kKeyTiles values whose rows start at shared address `values`.
template <int kHead, int kTiles, int kKeyTiles>
__device__ __forceinline__ void multiply_values(const float (&probabilities)[kTiles][kKeyTiles][4],
                                                uint32_t values,
                                                SoftmaxState<kHead, kTiles>& state) {
  using Layout = HeadLayout<kHead>;
  const int lane = threadIdx.x % 32;
  const uint32_t base = values + lane % 16 * Layout::kRowBytes + lane / 16 * 16;
#pragma unroll
  for (int step = 0; step < kKeyTiles / 2; ++step) {
    uint32_t a[kTiles][4];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const auto& even = probabilities[tile][2 * step];
      const auto& odd = probabilities[tile][2 * step + 1];
      a[tile][0] = pack_2(even[0], even[1]);
      a[tile][1] = pack_2(even[2], even[3]);
      a[tile][2] = pack_2(odd[0], odd[1]);
      a[tile][3] = pack_2(odd[2], odd[3]);
    }
#pragma unroll
    for (int pair = 0; pair < Layout::kSteps; ++pair) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, base + step * 16 * Layout::kRowBytes + pair * 32);
      const uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        mma_m16n8k16(state.out[tile][2 * pair], a[tile], even);
        mma_m16n8k16(state.out[tile][2 * pair + 1], a[tile], odd);
      }
    }
  }
}

// Asynchronous copy of kRows rows to shared memory by kThreads threads, of which this is `thread`.
// `row` gives the address of row r; rows from `valid` on become zeros and are not read.
template <int kHead, int kRows, int kThreads, class RowPointer>
__device__ __forceinline__ void copy_rows(uint32_t to, int thread, int valid,
                                          const RowPointer& row) {
  using Layout = HeadLayout<kHead>;
  constexpr int kTotal = kRows * Layout::kChunks;
#pragma unroll
  for (int first = 0; first < kTotal; first += kThreads) {
    const int index = first + thread;
    const int r = index / Layout::kChunks;
    const int chunk = index - r * Layout::kChunks;
    const bf16* from = row(r < kRows ? r : 0);
    if (kTotal % kThreads == 0 || index < kTotal) {
      cp_async_16(to + r * Layout::kRowBytes + chunk * 16, from + chunk * 8, r < valid);
    }
  }
}

// Zeros the part of `rows` rows of shared memory that copy_rows never writes but products read.
template <int kHead>
__device__ __forceinline__ void clear_padding(char* shared, int rows) {
  using Layout = HeadLayout<kHead>;
  if constexpr (Layout::kHasPadding) {
    for (int r = threadIdx.x; r < rows; r += blockDim.x) {
      *reinterpret_cast<uint4*>(shared + r * Layout::kRowBytes + Layout::kChunks * 16) =
          make_uint4(0, 0, 0, 0);
    }
  }
}

// Which item of a list a warp is to do: segment s has count(s) items, laid end to end.
struct ItemPlace {
  int segment;  // -1: the list is shorter
  int item;     // within the segment
  int count;    // items of the segment
};

// Finds items of a list in ascending order, 32 segments at a time. All lanes call together.
class ItemFinder {
 public:
  template <class Count>
  __device__ __forceinline__ ItemPlace find(int index, int segments, const Count& count) {
    const int lane = threadIdx.x % 32;
    for (; first_ < segments; first_ += 32, before_ += total_) {
      const int mine = first_ + lane < segments ? count(first_ + lane) : 0;
      int through = mine;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(0xffffffffu, through, step);
        if (lane >= step) through += below;
      }
      total_ = __shfl_sync(0xffffffffu, through, 31);
      if (index < before_ + total_) {
        const int local = index - before_;
        const int owner = __ffs(__ballot_sync(0xffffffffu, through > local)) - 1;
        const int start = __shfl_sync(0xffffffffu, through - mine, owner);
        return {first_ + owner, local - start, __shfl_sync(0xffffffffu, mine, owner)};
      }
    }
    return {-1, 0, 0};
  }

 private:
  int first_ = 0;   // segment of lane 0
  int before_ = 0;  // items of earlier segments
  int total_ = 0;   // items of these 32 segments
};

}  // namespace ernie
