// The rotary turn of four pairs at a time.
#pragma once

#include "ernie/vector.cuh"

namespace ernie {

// (a, b) → (a cos - b sin, b cos + a sin), with the same roundings wherever it is inlined.
__device__ __forceinline__ void turn_pair(float& a, float& b, float cosine, float sine) {
  const float first = a;
  a = fmaf(a, cosine, -(b * sine));
  b = fmaf(b, cosine, first * sine);
}

__device__ __forceinline__ void turn_pairs(float (&a)[4], float (&b)[4], float4 cosine,
                                           float4 sine) {
  const float c[4] = {cosine.x, cosine.y, cosine.z, cosine.w};
  const float s[4] = {sine.x, sine.y, sine.z, sine.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) turn_pair(a[i], b[i], c[i], s[i]);
}

__device__ __forceinline__ void load_4(const bf16* from, float (&f)[4]) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  f[0] = low_float(v.x), f[1] = high_float(v.x), f[2] = low_float(v.y), f[3] = high_float(v.y);
}

__device__ __forceinline__ void store_4(bf16* to, const float (&f)[4]) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_2(f[0], f[1]), pack_2(f[2], f[3]));
}

// Turns four pairs `half` values apart, by the four angles at `cosines` and `sines`.
__device__ __forceinline__ void turn_halves(const bf16* from, bf16* to, int half,
                                            const float* cosines, const float* sines) {
  float a[4], b[4];
  load_4(from, a);
  load_4(from + half, b);
  turn_pairs(a, b, *reinterpret_cast<const float4*>(cosines),
             *reinterpret_cast<const float4*>(sines));
  store_4(to, a);
  store_4(to + half, b);
}

}  // namespace ernie
