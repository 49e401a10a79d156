// Keys, weights and floors of logits: what sampling compares and adds.
//
// A value and its token make an entry: the value's order-preserving key above the complement of the
// id. Larger entries are more likely, the lower id among equals, so that what a filter keeps is all
// entries from some cut on. Weights are exp((x - max) / temperature) in fixed point, 2^44 for the
// most likely token: sums are integers, hence exact in any order.
#pragma once

#include <cstdint>

#include "ernie/exp2.cuh"

namespace ernie {

constexpr int kBins = 256;
constexpr float kOne = 17592186044416.f;  // 2^44
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr uint32_t kLowestKey = 0x00800000u;   // of the smallest finite number; -inf lies below
constexpr uint32_t kHighestKey = 0xff7fffffu;  // of the largest; +inf and NaN lie above
constexpr uint32_t kAll = 0xffffffffu;
constexpr int kMassBits = 54;  // hold the sum of as many weights as a warp of a cluster has values
constexpr uint64_t kMassMask = (uint64_t{1} << kMassBits) - 1;

// Larger floats have larger keys; no NaNs, and -0 has become +0.
__device__ __forceinline__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// Bins of equal steps below the top, over `distance`.
__device__ __forceinline__ float bin_steps(float distance) {
  return static_cast<float>(kBins) / fmaxf(distance, 1e-30f);
}

__device__ __forceinline__ int linear_bin(float distance, float steps) {
  return static_cast<int>(fminf(distance * steps, static_cast<float>(kBins - 1)));
}

struct Weigher {
  float top;
  float scale;  // log2(e) / temperature

  __device__ float fraction(float value) const { return fast_exp2((value - top) * scale); }
  __device__ uint64_t operator()(float value) const {
    return __float2ull_rn(fraction(value) * kOne);
  }
};

// A sum of weights without conversions: adding 2^45, then 1.5 · 2^23 to what that left over, leaves
// multiples of 2^22 and the rounded rest in the lowest bits of two floats.
class WeightSum {
 public:
  __device__ void add(float fraction) {
    const float shifted = fmaf(fraction, kOne, kHigh);
    const float rest = fmaf(fraction, kOne, -(shifted - kHigh));
    high_ += __float_as_uint(shifted);
    low_ += __float_as_uint(rest + kLow);
  }
  __device__ uint64_t total(uint32_t count) const {
    const uint32_t high = high_ - count * __float_as_uint(kHigh);
    const int32_t low = static_cast<int32_t>(low_ - count * __float_as_uint(kLow));
    return (static_cast<uint64_t>(high) << 22) + static_cast<uint64_t>(static_cast<int64_t>(low));
  }

 private:
  static constexpr float kHigh = 2.f * kOne;
  static constexpr float kLow = 12582912.f;
  uint32_t high_ = 0, low_ = 0;
};

// What is kept: values above, and of those equal the ones whose id's complement is at least `ties`.
struct Floor {
  float value;
  uint32_t ties;

  __device__ bool keeps(float x, uint32_t id) const {
    return x > value || (x == value && ~id >= ties);
  }
};

__device__ __forceinline__ Floor floor_of(uint64_t entry) {
  return {value_of(static_cast<uint32_t>(entry >> 32)), static_cast<uint32_t>(entry)};
}

}  // namespace ernie
